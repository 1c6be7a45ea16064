// The pass of in_place.cpp, for passes.cpp.
#pragma once

#include <ATen/core/stack.h>

#include <cstdint>
#include <memory>

namespace torch::jit {
struct Graph;
}

namespace trawl {

// Makes operations overwrite their first operand where nobody can tell; returns how many.
// Runs the graph once on `example` to see shapes and types.
uint32_t overwrite(const std::shared_ptr<torch::jit::Graph>& graph, const torch::jit::Stack& example);

}  // namespace trawl
