// The graph passes of passes.cpp, for module.cpp.
#pragma once

#include "shim.h"

#include <ATen/core/stack.h>
#include <c10/core/ScalarType.h>

#include <memory>

namespace torch::jit {
struct Graph;
}

namespace trawl {

// Runs the groups of `passes` (see `trawl_passes`) on the graph of a frozen module. `example`: what its forward takes.
void run_passes(std::shared_ptr<torch::jit::Graph>& graph, uint32_t passes, const torch::jit::Stack& example, trawl_counts& counts);

// Gives every float constant of the graph another precision.
void convert_constants(const std::shared_ptr<torch::jit::Graph>& graph, c10::ScalarType kind);

}  // namespace trawl
