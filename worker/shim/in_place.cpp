// Makes activations, sums and products overwrite their first operand: less memory to touch, a tenth and more of a pass
// on the CPU.
//
// Two things must hold. Nobody else may see the operand: it is memory of its own (made by an operation that always
// allocates, in the same block), and its other readers have run by then and gave no view of it. That is proved from
// the graph. And the result must have the operand's shape and type, or libtorch would refuse: that is looked up in one
// run. Whatever is not on the lists below stays as it is; so do inputs, constants, attributes and what is in a loop.

#include "in_place.h"

#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

#include <string>
#include <unordered_map>
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
  const auto name = name_of(node);
  return overwriting().count(name) || allocating().count(name);
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

// Those of `nodes` whose result has the shape and the type of the first operand, in a run of a copy of the graph that
// gives shapes and types instead of its outputs.
std::unordered_set<const Node*> keep_shape(const std::shared_ptr<Graph>& graph, const std::vector<Node*>& nodes, const Stack& example) {
  auto copy = std::make_shared<Graph>();
  std::unordered_map<Value*, Value*> copied;
  for (Value* input : graph->inputs()) copied[input] = copy->addInput()->copyMetadata(input);
  for (Node* node : graph->nodes()) {
    Node* twin = copy->insertNode(copy->createClone(node, [&](Value* value) { return copied.at(value); }));
    for (size_t i = 0; i < node->outputs().size(); ++i) copied[node->output(i)] = twin->output(i);
  }
  for (Node* node : nodes) {
    for (Value* value : {node->input(0), node->output()}) {
      // Where it is made: what overwrites it later may change its shape.
      Value* twin = copied.at(value);
      WithInsertPoint at(twin->node()->kind() == prim::Param ? *copy->nodes().begin() : twin->node()->next());
      copy->registerOutput(copy->insert(aten::size, {twin}));
      copy->registerOutput(copy->insert(prim::dtype, {twin}));
    }
  }
  Stack stack = example;
  InterpreterState(Code(copy, "shapes")).run(stack);
  std::unordered_set<const Node*> keeping;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto seen = &stack.at(4 * i);
    if (seen[0].toIntVector() == seen[2].toIntVector() && seen[1].toInt() == seen[3].toInt()) keeping.insert(nodes[i]);
  }
  return keeping;
}

}  // namespace

uint32_t overwrite(const std::shared_ptr<Graph>& graph, const Stack& example) {
  std::vector<Node*> candidates;
  for (Node* node : graph->nodes()) {
    if (overwriting().count(name_of(node)) && node->outputs().size() == 1 && node->input(0)->type()->isSubtypeOf(*TensorType::get()) &&
        node->output()->type()->isSubtypeOf(*TensorType::get())) {
      candidates.push_back(node);
    }
  }
  const auto keeping = keep_shape(graph, candidates, example);
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
    if (keeping.count(node) && owned.count(node->input(0)) && is_last_reader(node->input(0), node)) {
      WithInsertPoint at(node);
      Node* form = graph->create(Symbol::aten(name + "_"), node->inputs(), 1);
      form->output()->copyMetadata(node->output());
      graph->insertNode(form);
      if (form->maybeOperator() == nullptr) {
        form->destroy();
      } else {
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
