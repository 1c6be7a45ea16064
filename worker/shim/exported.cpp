// Runs files of torch.export through nativert, libtorch's interpreter for them.
//
// It keeps one frame of activations for each thread that runs it at once, and is safe to run from several. Its
// public header is all that is used: what is behind it changes between releases.

#include "engine.h"
#include "guard.h"
#include "shim.h"

#include <c10/util/Logging.h>
#include <torch/nativert/ModelRunnerHandle.h>

#include <memory>

namespace {

// While it lives, libtorch logs errors only: on loading, nativert lists every operation that it has no shortcut for,
// which is nothing that a user can mend.
struct Quiet {
  Quiet() {
    FLAGS_caffe2_log_level = 2;
  }
  ~Quiet() {
    FLAGS_caffe2_log_level = before;
  }
  const int before = FLAGS_caffe2_log_level;
};

struct Exported final : trawl_module {
  // torch.export.save gives its only graph this name.
  explicit Exported(const std::string& path) : runner(path, "model") {}
  c10::IValue run(const at::Tensor& input) override {
    return runner.run({input}, {});
  }
  torch::nativert::ModelRunnerHandle runner;
};

}  // namespace

extern "C" char* trawl_load_exported(const char* path, trawl_module** out) {
  return trawl_guarded([&] {
    Quiet quiet;
    *out = std::make_unique<Exported>(path).release();
  });
}
