// Makes activations, sums and products overwrite their first operand: less memory to touch, a tenth and more of a pass
// on the CPU.
//
// Two things must hold. Nobody else may see the operand: it is memory of its own (made by an operation that always
// allocates, in the same block), and its other readers have run by then and gave no view of it. That is proved from
// the graph. And the result must have the operand's shape and type, or libtorch would refuse: that was looked up in a
// run. Whatever is not on the lists below stays as it is; so do inputs, constants, attributes and what is in a loop.

#include "in_place.h"

#include "fuse.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>

#include <string>
#include <unordered_set>
#include <vector>

using namespace torch::jit;

namespace trawl {
namespace {

using Names = std::unordered_set<std::string>;

// These have a form that overwrites its first operand, with the same arguments.
const Names& overwriting() {
  static const Names names{
      "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "silu", "hardswish", "hardsigmoid", "sigmoid",
      "tanh", "gelu", "leaky_relu", "elu", "mish", "add", "sub", "mul", "div"};
  return names;
}

// So do these give new memory always, and write to none. (Dropout does not: its schema says so, and it gives its
// input back.)
const Names& allocating() {
  static const Names names{
      "conv1d", "conv2d", "_convolution", "linear", "addmm", "matmul", "bmm", "batch_norm", "layer_norm",
      "adaptive_avg_pool2d", "avg_pool2d", "max_pool2d", "mean"};
  return names;
}

// The name of a PyTorch operation without its namespace; empty for anything else.
std::string name_of(const Node* node) {
  return node->kind().is_aten() ? node->kind().toUnqualString() : std::string();
}

bool only_reads(const Node* node) {
  if (is_writing(node)) return false;
  const auto name = name_of(node);
  return overwriting().count(name) || allocating().count(name) || is_fused(node);
}

bool is_overwriting_form(const std::string& name) {
  return name.size() > 1 && name.back() == '_' && overwriting().count(name.substr(0, name.size() - 1));
}

// Whether `node` is the last to look at `value`.
bool is_last_reader(Value* value, Node* node) {
  size_t own = 0;
  for (const Use& use : value->uses()) {
    if (use.user == node) {
      ++own;
    } else if (use.user->owningBlock() != node->owningBlock() || !use.user->isBefore(node) || !only_reads(use.user)) {
      return false;
    }
  }
  return own == 1;
}

// Which operand `node` can overwrite; a sum inside a convolution is made in what is added.
size_t operand_at(const Node* node) {
  return is_fused_sum(node) ? 1 : 0;
}

// Whether the result of `node` has the shape and the type of what it would overwrite.
bool keeps_shape(const Node* node, const Shapes& shapes) {
  if (node->inputs().empty()) return false;
  auto operand = shapes.find(node->input(operand_at(node))), result = shapes.find(node->output());
  return operand != shapes.end() && result != shapes.end() && operand->second == result->second;
}

// The form of `node` that overwrites its operand, where it stands; null if there is none.
Node* overwriting_form(const std::shared_ptr<Graph>& graph, Node* node) {
  WithInsertPoint at(node);
  std::vector<Value*> inputs(node->inputs().begin(), node->inputs().end());
  std::swap(inputs[0], inputs[operand_at(node)]);
  Node* form = graph->create(Symbol::fromQualString(std::string(node->kind().toQualString()) + "_"), inputs, 1);
  form->output()->copyMetadata(node->output());
  graph->insertNode(form);
  if (form->maybeOperator() != nullptr) return form;
  form->destroy();
  return nullptr;
}

}  // namespace

uint32_t overwrite(const std::shared_ptr<Graph>& graph, Shapes& shapes) {
  // Values whose memory is theirs alone.
  std::unordered_set<const Value*> owned;
  uint32_t overwritten = 0;
  // A list of its own: the graph's changes. What is destroyed was not put into `owned`.
  const std::vector<Node*> nodes(graph->nodes().begin(), graph->nodes().end());
  for (Node* node : nodes) {
    const auto name = name_of(node);
    if (is_overwriting_form(name)) {
      if (owned.count(node->input(0)) && is_last_reader(node->input(0), node)) owned.insert(node->output());
      continue;
    }
    if (!only_reads(node) || node->outputs().size() != 1) continue;
    const bool known = overwriting().count(name) || is_fused_sum(node);
    Value* operand = known && keeps_shape(node, shapes) ? node->input(operand_at(node)) : nullptr;
    if (operand && owned.count(operand) && is_last_reader(operand, node)) {
      if (Node* form = overwriting_form(graph, node)) {
        shapes[form->output()] = shapes.at(node->output());
        node->output()->replaceAllUsesWith(form->output());
        node->destroy();
        owned.insert(form->output());
        ++overwritten;
        continue;
      }
    }
    owned.insert(node->output());
  }
  return overwritten;
}

}  // namespace trawl
