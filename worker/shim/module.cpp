// Loads, converts and runs modules: the C side of worker/src/model/shim.rs.
//
// Not tch's CModule, because that can neither be made from a module of ours nor give its module away, and saving
// and loading an optimised one would cost a copy of the weights. Must never keep a reference to a caller's tensor.

#include "shim.h"

#include "engine.h"
#include "guard.h"
#include "outputs.h"
#include "passes.h"

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/passes/freeze_module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdlib>
#include <memory>
#include <vector>

namespace {

struct Script final : trawl_module {
  explicit Script(torch::jit::Module loaded) : module(std::move(loaded)) {}
  c10::IValue run(const at::Tensor& input) override {
    return module.forward({input});
  }
  torch::jit::Module module;
};

const torch::jit::Module& script(const trawl_module* module) {
  auto it = dynamic_cast<const Script*>(module);
  TORCH_CHECK(it, "this is no TorchScript module");
  return it->module;
}

c10::Device device_of(int device) {
  return device < 0 ? c10::Device(c10::kCPU) : c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(device));
}

std::shared_ptr<torch::jit::Graph> forward_graph(const torch::jit::Module& module) {
  return torch::jit::toGraphFunction(module.get_method("forward").function()).graph();
}

}  // namespace

extern "C" {

char* trawl_load(const char* path, int device, trawl_module** out) {
  return trawl_guarded([&] {
    auto loaded = std::make_unique<Script>(torch::jit::load(path, device_of(device)));
    loaded->module.eval();
    *out = loaded.release();
  });
}

char* trawl_optimise(const trawl_module* from, uint32_t passes, const at::Tensor* example, int kind, trawl_module** out, trawl_counts* counts) {
  return trawl_guarded([&] {
    c10::NoGradGuard no_grad;
    const auto optimised = [&](uint32_t some) {
      *counts = {};
      auto frozen = std::make_unique<Script>(torch::jit::freeze_module(script(from)));
      auto graph = forward_graph(frozen->module);
      trawl::run_passes(graph, some, {frozen->module._ivalue(), *example}, *counts);
      if (kind >= 0) trawl::convert_constants(graph, static_cast<c10::ScalarType>(kind));
      return frozen;
    };
    // What oneDNN was given cannot be converted any more.
    if (kind >= 0) passes &= ~static_cast<uint32_t>(TRAWL_FUSE);
    std::unique_ptr<Script> made;
    try {
      made = optimised(passes);
    } catch (const std::exception&) {
      // oneDNN's operations want batches of images, which a graph does not say; the others need not do without for that.
      if (!(passes & TRAWL_FUSE)) throw;
      made = optimised(passes & ~TRAWL_FUSE);
    }
    *out = made.release();
  });
}

char* trawl_convert(trawl_module* module, int device, int kind) {
  return trawl_guarded([&] {
    torch::jit::Module of_script = script(module);  // A handle to the same module.
    of_script.to(device_of(device), static_cast<c10::ScalarType>(kind));
  });
}

char* trawl_forward(trawl_module* module, const at::Tensor* input, const trawl_slot* slots, size_t count, at::Tensor** out) {
  return trawl_guarded([&] {
    c10::NoGradGuard no_grad;
    const auto answer = module->run(*input);
    std::vector<std::unique_ptr<at::Tensor>> found(count);
    for (size_t i = 0; i < count; ++i) found[i] = std::make_unique<at::Tensor>(trawl::pick(answer, slots[i]));
    for (size_t i = 0; i < count; ++i) out[i] = found[i].release();
  });
}

void trawl_set_specialising(int on) {
  torch::jit::getProfilingMode() = on != 0;
}

int trawl_allow_tf32(int on) {
  // The getter throws if something else of this process set the newer, finer switches.
  int before = 0;
  std::free(trawl_guarded([&] {
    auto& context = at::globalContext();
    before = context.allowTF32CuDNN();
    context.setAllowTF32CuDNN(on != 0);
  }));
  return before;
}

void trawl_free_module(trawl_module* module) {
  delete module;
}

void trawl_free_text(char* text) {
  std::free(text);
}
}
