// The passes of fuse.cpp, for passes.cpp: one after another, with a look at the shapes after the first.
#pragma once

#include "convolution.h"
#include "shapes.h"

#include <ATen/core/stack.h>

#include <memory>
#include <vector>

namespace torch::jit {
struct Block;
struct Graph;
struct Node;
}

namespace trawl {

// Makes convolutions, and each activation behind one, an operation of oneDNN; returns them. None unless `example`, what the
// graph's forward takes, is for a CPU. Each must have a batch of images as its input, or its first run fails.
std::vector<Convolution> give_to_onednn(const std::shared_ptr<torch::jit::Graph>& graph, const torch::jit::Stack& example);

// Makes those of `convolutions` that are summed with another tensor of their shape make the sum, and a `relu` behind it.
void fuse_sums(const std::shared_ptr<torch::jit::Graph>& graph, std::vector<Convolution>& convolutions, Shapes& shapes);

// Puts the weights into the order of oneDNN's kernels for such shapes.
void pack_weights(const std::shared_ptr<torch::jit::Graph>& graph, const std::vector<Convolution>& convolutions, const Shapes& shapes);

// Whether `node` overwrites a tensor that it is given: by its name's underscore, or `out`.
bool is_writing(const torch::jit::Node* node);

// Whether anything in `block` does.
bool writes(torch::jit::Block* block);

// Whether `node` is an operation of these passes: its result is memory of its own, and it writes to nothing.
bool is_fused(const torch::jit::Node* node);

// Whether it is one that adds another tensor, its second input, to its result.
bool is_fused_sum(const torch::jit::Node* node);

}  // namespace trawl
