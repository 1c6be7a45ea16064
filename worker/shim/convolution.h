// Two-dimensional convolutions of a graph whose weights and settings are constants, for the passes that change them.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace torch::jit {
struct Node;
struct Value;
}

namespace trawl {

using Ints = std::vector<int64_t>;

// Where the arguments of a convolution are.
struct ConvolutionInputs {
  static constexpr size_t image = 0, weight = 1, bias = 2, stride = 3, padding = 4, dilation = 5;
};

struct Convolution {
  torch::jit::Node* node;
  at::Tensor weight;  // [outputs, inputs / groups, height, width]
  c10::IValue bias;  // a tensor of [outputs], or none
  Ints stride, padding, dilation;  // two each
  int64_t groups;
};

// What `node` is, if it is one.
std::optional<Convolution> convolution(torch::jit::Node* node);

// The numbers of a constant list.
std::optional<Ints> constant_ints(torch::jit::Value* value);

}  // namespace trawl
