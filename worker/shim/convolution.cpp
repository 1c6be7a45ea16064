// Recognises convolutions, for the passes of passes.cpp and fuse.cpp. Must take nothing for one that it does not know whole.

#include "convolution.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

using namespace torch::jit;

namespace trawl {
namespace {

// Where the number of groups is; nothing for what is no convolution, or a transposed one.
std::optional<size_t> groups_at(Node* node) {
  if (node->kind() == aten::conv2d) return 6;
  if (node->kind() != aten::_convolution) return std::nullopt;
  auto transposed = toIValue(node->input(6));
  if (!transposed || !transposed->isBool() || transposed->toBool()) return std::nullopt;
  return 8;
}

}  // namespace

std::optional<Ints> constant_ints(Value* value) {
  auto constant = toIValue(value);
  if (!constant || !constant->isIntList()) return std::nullopt;
  return constant->toIntVector();
}

std::optional<Convolution> convolution(Node* node) {
  using At = ConvolutionInputs;
  const auto groups_input = groups_at(node);
  if (!groups_input) return std::nullopt;
  auto weight = toIValue(node->input(At::weight));
  auto bias = toIValue(node->input(At::bias));
  auto stride = constant_ints(node->input(At::stride));
  auto padding = constant_ints(node->input(At::padding));
  auto dilation = constant_ints(node->input(At::dilation));
  auto groups = toIValue(node->input(*groups_input));
  if (!weight || !weight->isTensor() || !bias || !stride || !padding || !dilation || !groups || !groups->isInt()) return std::nullopt;
  if (weight->toTensor().dim() != 4 || stride->size() != 2 || padding->size() != 2 || dilation->size() != 2) return std::nullopt;
  return Convolution{node, weight->toTensor(), *bias, *stride, *padding, *dilation, groups->toInt()};
}

}  // namespace trawl
