// The pass of in_place.cpp, for passes.cpp.
#pragma once

#include "shapes.h"

#include <cstdint>
#include <memory>

namespace torch::jit {
struct Graph;
}

namespace trawl {

// Makes operations overwrite their first operand where nobody can tell; returns how many. What has no entry in `shapes`
// is left alone; what is made has one then.
uint32_t overwrite(const std::shared_ptr<torch::jit::Graph>& graph, Shapes& shapes);

}  // namespace trawl
