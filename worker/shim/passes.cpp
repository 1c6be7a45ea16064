// Makes the graph of a frozen TorchScript module faster without changing what it computes.
//
// Run once, when a model is loaded; torchscript.rs compares the result with the module as it came before a batch
// sees it. PyTorch's own passes fold batch norm; the three of ours are what a hand-tuned network does besides: padding
// inside the convolutions, activations and sums inside them too, and those that are left over their operand. Each refuses what
// it cannot prove; none may write to a graph's input or to a constant, whose memory outlives the pass.

#include "passes.h"

#include "convolution.h"
#include "fuse.h"
#include "in_place.h"

#include <ATen/ATen.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/common_subexpression_elimination.h>
#include <torch/csrc/jit/passes/constant_pooling.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/frozen_concat_linear.h>
#include <torch/csrc/jit/passes/frozen_conv_folding.h>
#include <torch/csrc/jit/passes/frozen_linear_folding.h>
#include <torch/csrc/jit/passes/peephole.h>
#include <torch/csrc/jit/passes/remove_dropout.h>

#include <algorithm>

using namespace torch::jit;

namespace trawl {
namespace {

// Operations in the graph and in its blocks, without constants.
uint32_t operations(Block* block) {
  uint32_t n = 0;
  for (Node* node : block->nodes()) {
    n += node->kind() != prim::Constant && node->kind() != prim::ListConstruct;
    for (Block* inner : node->blocks()) n += operations(inner);
  }
  return n;
}

template <typename F>
void for_each_node(Block* block, F&& visit) {
  for (auto it = block->nodes().begin(); it != block->nodes().end();) {
    Node* node = *it;
    ++it;  // First: `visit` may destroy the node.
    for (Block* inner : node->blocks()) for_each_node(inner, visit);
    visit(node);
  }
}

void tidy(std::shared_ptr<Graph>& graph) {
  ConstantPropagation(graph);
  EliminateCommonSubexpression(graph);
  PeepholeOptimize(graph);
  ConstantPooling(graph);
  EliminateDeadCode(graph);
}

uint32_t fold(std::shared_ptr<Graph>& graph) {
  tidy(graph);
  const uint32_t before = operations(graph->block());
  removeDropout(graph);
  FrozenConcatLinear(graph);
  // Until nothing changes: a convolution, a product and a sum behind each other become one.
  bool changed = true;
  while (changed) {
    changed = FoldFrozenConvBatchnorm(graph);
    changed |= FoldFrozenConvAddOrSub(graph);
    changed |= FoldFrozenConvMulOrDiv(graph);
    changed |= FoldFrozenLinearBatchnorm(graph);
  }
  EliminateDeadCode(graph);
  return before - std::min(before, operations(graph->block()));
}

// ---- padding

// Left, right, top and bottom of a padding with zeros of the two last dimensions.
std::optional<Ints> zero_padding(Node* node) {
  static const auto pad = Symbol::aten("pad"), constant_pad = Symbol::aten("constant_pad_nd");
  if (node->kind() != pad && node->kind() != constant_pad) return std::nullopt;
  if (node->kind() == pad) {
    auto mode = toIValue(node->input(2));
    if (!mode || !mode->isString() || mode->toStringRef() != "constant") return std::nullopt;
  }
  auto value = toIValue(node->input(node->inputs().size() - 1));
  if (!value) return std::nullopt;
  const bool zero = value->isNone() || (value->isInt() && value->toInt() == 0) || (value->isDouble() && value->toDouble() == 0);
  auto sides = constant_ints(node->input(1));
  if (!zero || !sides || sides->size() < 4) return std::nullopt;
  // The batch and the channels must not be padded, and nothing may be cut off.
  if (std::any_of(sides->begin() + 4, sides->end(), [](int64_t n) { return n != 0; })) return std::nullopt;
  if (std::any_of(sides->begin(), sides->end(), [](int64_t n) { return n < 0; })) return std::nullopt;
  sides->resize(4);
  return sides;
}

// Zeros that one side of a kernel of `dilation` gets so that padding by the larger of both sides does the same as
// the two; at most one, since a larger kernel costs more than the padding did.
struct Extension {
  int64_t before, after, padding;
};

std::optional<Extension> extension(int64_t before, int64_t after, int64_t dilation) {
  const int64_t padding = std::max(before, after);
  const Extension it{padding - before, padding - after, padding};
  if (it.before + it.after == 0) return it;
  if (it.before + it.after > 1 || dilation != 1) return std::nullopt;
  return it;
}

bool pad_inside(Node* node) {
  using At = ConvolutionInputs;
  auto it = convolution(node);
  if (!it) return false;
  Node* pad = node->input(At::image)->node();
  auto sides = zero_padding(pad);
  if (!sides || pad->output()->uses().size() != 1) return false;
  const Ints& s = *sides;
  auto rows = extension(s[2] + it->padding[0], s[3] + it->padding[0], it->dilation[0]);
  auto columns = extension(s[0] + it->padding[1], s[1] + it->padding[1], it->dilation[1]);
  if (!rows || !columns) return false;
  WithInsertPoint at(node);
  Graph& graph = *node->owningGraph();
  if (rows->before + rows->after + columns->before + columns->after > 0) {
    // A larger kernel costs as much more as it has more numbers. Where an input channel meets one output channel, or
    // there are as few as colours, the padding's own pass over the image costs more than that.
    constexpr int64_t few = 4;
    if (it->weight.size(1) > few) return false;
    auto larger = at::constant_pad_nd(it->weight, {columns->before, columns->after, rows->before, rows->after}, 0);
    node->replaceInput(At::weight, graph.insertConstant(larger));
  }
  node->replaceInput(At::padding, graph.insertConstant(Ints{rows->padding, columns->padding}));
  node->replaceInput(At::image, pad->input(0));
  pad->destroy();
  return true;
}

// ---- for tests

// Changes the result by a hundredth.
void spoil(const std::shared_ptr<Graph>& graph) {
  for (Node* node : graph->nodes()) {
    auto value = node->kind() == prim::Constant ? toIValue(node->output()) : std::nullopt;
    if (!value || !value->isTensor() || value->toTensor().dim() < 2) continue;
    WithInsertPoint at(node);
    node->output()->replaceAllUsesWith(graph->insertConstant(value->toTensor() * 1.01));
    return;
  }
}

}  // namespace

void run_passes(std::shared_ptr<Graph>& graph, uint32_t passes, const Stack& example, trawl_counts& counts) {
  if (passes & TRAWL_FOLD) counts.folded = fold(graph);
  // A convolution that pads reads what was padded, later than the padding did: nothing may overwrite it in between.
  if (passes & TRAWL_PAD && !writes(graph->block())) {
    for_each_node(graph->block(), [&](Node* node) { counts.padded += pad_inside(node); });
  }
  tidy(graph);
  if (passes & TRAWL_WRONG) spoil(graph);
  std::vector<Convolution> convolutions;
  if (passes & TRAWL_FUSE) convolutions = give_to_onednn(graph, example);
  counts.fused = convolutions.size();
  Shapes shapes;
  if (passes & (TRAWL_FUSE | TRAWL_IN_PLACE)) shapes = shapes_of(graph, example);
  fuse_sums(graph, convolutions, shapes);
  pack_weights(graph, convolutions, shapes);
  // Last: the others understand functional operations only.
  if (passes & TRAWL_IN_PLACE) counts.in_place = overwrite(graph, shapes);
  graph->lint();
}

void convert_constants(const std::shared_ptr<Graph>& graph, c10::ScalarType kind) {
  for_each_node(graph->block(), [&](Node* node) {
    auto value = node->kind() == prim::Constant ? toIValue(node->output()) : std::nullopt;
    if (!value || !value->isTensor() || !value->toTensor().is_floating_point()) return;
    WithInsertPoint at(node);
    node->output()->replaceAllUsesWith(graph->insertConstant(value->toTensor().to(kind)));
    node->destroy();
  });
}

}  // namespace trawl
