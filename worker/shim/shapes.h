// Shapes of a graph's values, for the passes that may only act where shapes agree.
#pragma once

#include <ATen/core/stack.h>

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace torch::jit {
struct Graph;
struct Value;
}

namespace trawl {

struct Shape {
  std::vector<int64_t> sizes;
  int64_t type;  // a c10::ScalarType
  bool operator==(const Shape& other) const { return sizes == other.sizes && type == other.type; }
};

using Shapes = std::unordered_map<const torch::jit::Value*, Shape>;

// Those of the tensors of the graph's own block, where they are made, in a run of a copy of the graph on `example`.
Shapes shapes_of(const std::shared_ptr<torch::jit::Graph>& graph, const torch::jit::Stack& example);

}  // namespace trawl
