// What worker/src/model/shim.rs calls: modules of TorchScript and of torch.export, loaded, made faster and run.
//
// A C interface, because that is what Rust can call. Every function but the two frees returns null if it did what its
// name says, or the reason in words, to be given back to `trawl_free_text`. No C++ exception leaves it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace at {
class Tensor;
}

extern "C" {

struct trawl_module;

// The groups of passes that `trawl_optimise` runs. The same numbers are in shim.rs.
enum trawl_passes : uint32_t {
  TRAWL_FOLD = 1,          // batch norm, constants and dropout into the convolutions and linear layers beside them
  TRAWL_PAD = 2,           // a padding layer into the convolution behind it
  TRAWL_IN_PLACE = 4,      // activations, sums and products over their first operand
  TRAWL_FUSE = 8,          // activations and sums into the convolution before them, on the CPU
  TRAWL_WRONG = 1u << 31,  // for tests: a pass that changes the result
};

// What was changed.
struct trawl_counts {
  uint32_t folded;    // operations that are gone
  uint32_t padded;    // padding layers that are gone
  uint32_t in_place;  // operations that overwrite their operand now
  uint32_t fused;     // convolutions that are oneDNN's now, with what came behind them
};

// Where one tensor is looked for in what a model returns. With neither it must be the only one.
struct trawl_slot {
  const char* key;  // in a dict; or null
  int64_t index;    // in a tuple or list; or -1
};

// Loads the file onto `device` (CUDA device n, or the CPU for less than 0), in evaluation mode.
char* trawl_load(const char* path, int device, trawl_module** out);

// Loads a file of torch.export onto the CPU. `trawl_optimise` and `trawl_convert` refuse it.
char* trawl_load_exported(const char* path, trawl_module** out);

// A frozen and optimised copy. It shares what weights it can with `from`, which stays as it is.
// `example`: an input of two images or more, whose shapes are looked at; it must be on the module's device.
// `kind`: -1, or the c10::ScalarType that every float constant gets at the end.
char* trawl_optimise(const trawl_module* from, uint32_t passes, const at::Tensor* example, int kind, trawl_module** out, trawl_counts* counts);

// Converts the weights of a module that was not run yet.
char* trawl_convert(trawl_module* module, int device, int kind);

// One forward pass without gradients; `out[i]` becomes a new tensor for each of the `count` slots, or none of them does.
// Called from several threads at once.
char* trawl_forward(trawl_module* module, const at::Tensor* input, const trawl_slot* slots, size_t count, at::Tensor** out);

// On or off: the executor that specialises a graph to the shapes of its first runs. Takes effect on modules that did
// not run yet, in the whole process.
void trawl_set_specialising(int on);

// Whether CUDA's convolutions may round to TensorFloat-32; gives what was set before.
int trawl_allow_tf32(int on);

// The calling thread's work on CUDA device `device` from now on in a stream of its own, beside that of other threads.
char* trawl_own_stream(int device);

// Bytes of CUDA device `device`'s memory that this process holds, used or kept for use.
char* trawl_device_memory(int device, uint64_t* bytes);

// The version of libtorch that this was compiled against; never freed.
const char* trawl_torch_version();

void trawl_free_module(trawl_module* module);
void trawl_free_text(char* text);
}
