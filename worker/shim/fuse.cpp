// Convolutions with what comes behind them in one step: oneDNN applies an activation, or adds the residual, while a result is
// still in registers, instead of going through memory once more for each.
//
// Beside that, weights are put into oneDNN's order once instead of in each pass: the smaller a micro-batch, the more that
// counts, and the better it stays in the cache. PyTorch's own compiler for the CPU does the same by the same operations.
// What is not constant, not two-dimensional, not in single precision or not on the CPU stays as it is.

#include "fuse.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>
#include <torch/csrc/jit/passes/remove_mutation.h>
#include <torch/csrc/jit/runtime/operator.h>

#include <algorithm>
#include <string>
#include <unordered_set>

using namespace torch::jit;

namespace trawl {
namespace {

// mkldnn::_convolution_pointwise(X, W, B, padding, stride, dilation, groups, attr, scalars, algorithm). Its overload
// `binary` has another tensor behind X, and (binary_attr, alpha, unary_attr, unary_scalars, unary_algorithm) at the end.
struct PointwiseInputs {
  static constexpr size_t image = 0, weight = 1, groups = 6, activation = 7, count_with_sum = 13;
};

const Symbol& pointwise() {
  static const auto name = Symbol::fromQualString("mkldnn::_convolution_pointwise");
  return name;
}

std::optional<c10::OperatorHandle> reordering() {
  return c10::Dispatcher::singleton().findSchema({"mkldnn::_reorder_convolution_weight", ""});
}

// oneDNN has kernels with these steps for every x86 processor of the last ten years. Elsewhere it may fall back to plain loops.
bool available() {
#if defined(__x86_64__)
  return !getAllOperatorsFor(pointwise()).empty() && reordering();
#else
  return false;
#endif
}

// ---- what can be behind a convolution

// An activation as oneDNN's operations of PyTorch want it said.
struct Activation {
  std::string name = "none";
  std::vector<double> numbers = {};
  std::string algorithm = {};
};

std::optional<double> constant_number(Value* value) {
  auto constant = toIValue(value);
  if (!constant || !constant->isScalar()) return std::nullopt;
  return constant->toScalar().toDouble();
}

// All that `node` is told beside its operand.
std::optional<std::vector<double>> constant_numbers(Node* node) {
  std::vector<double> numbers;
  for (size_t i = 1; i < node->inputs().size(); ++i) {
    auto number = constant_number(node->input(i));
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

std::optional<Activation> activation(Node* node) {
  if (!node->kind().is_aten() || is_writing(node)) return std::nullopt;
  const std::string name = node->kind().toUnqualString();
  if (name == "relu" || name == "sigmoid" || name == "tanh" || name == "hardswish" || name == "hardsigmoid") return Activation{name};
  if (name == "silu") return Activation{"swish"};
  if (name == "relu6") return Activation{"hardtanh", {0.0, 6.0}};
  if (name == "gelu") {
    auto algorithm = toIValue(node->input(1));
    if (!algorithm || !algorithm->isString()) return std::nullopt;
    return Activation{name, {}, algorithm->toStringRef()};
  }
  if (name == "hardtanh" || name == "clamp" || name == "leaky_relu") {
    auto numbers = constant_numbers(node);
    const bool limits = name != "leaky_relu";
    if (!numbers || numbers->size() != (limits ? 2 : 1)) return std::nullopt;
    // Where the limits are the wrong way round, the two do not agree on the answer.
    if (limits && !(numbers->at(0) <= numbers->at(1))) return std::nullopt;
    return Activation{limits ? "hardtanh" : name, *numbers};
  }
  return std::nullopt;
}

// The only reader of `value`, if there is one and it is in the same block.
Node* only_reader(Value* value) {
  if (value->uses().size() != 1) return nullptr;
  Node* user = value->uses()[0].user;
  return user->owningBlock() == value->node()->owningBlock() && user->kind() != prim::Return ? user : nullptr;
}

bool is_plain_sum(Node* node) {
  if (node->kind() != aten::add || node->inputs().size() != 3) return false;
  auto alpha = constant_number(node->input(2));
  return alpha && *alpha == 1.0;
}

// ---- the operation

// `it`, then `then`, as one operation where the graph's insertion point is; with `other` added in between if there is one.
Node* insert_pointwise(Graph& graph, const Convolution& it, Value* other, const Activation& then) {
  const auto constant = [&](const IValue& value) { return graph.insertConstant(value); };
  std::vector<Value*> numbers;
  for (double number : then.numbers) numbers.push_back(constant(number));
  Value* scalars = graph.insertNode(graph.createList(OptionalType::create(NumberType::get()), numbers))->output();
  std::vector<Value*> inputs{it.node->input(PointwiseInputs::image)};
  if (other) inputs.push_back(other);
  inputs.insert(inputs.end(), {constant(it.weight), constant(it.bias), constant(it.padding), constant(it.stride), constant(it.dilation), constant(it.groups)});
  if (other) {
    Value* none = constant(IValue());
    inputs.insert(inputs.end(), {constant("add"), none, then.name == "none" ? none : constant(then.name)});
  } else {
    inputs.push_back(constant(then.name));
  }
  inputs.insert(inputs.end(), {scalars, constant(then.algorithm)});
  return graph.insertNode(graph.create(pointwise(), inputs, 1));
}

// Whether `node` is one that nothing was made part of.
bool is_bare(Node* node) {
  if (!is_fused(node) || is_fused_sum(node)) return false;
  auto name = toIValue(node->input(PointwiseInputs::activation));
  return name && name->isString() && name->toStringRef() == "none";
}

int64_t groups_of(Node* node) {
  auto groups = toIValue(node->input(PointwiseInputs::groups));
  return groups && groups->isInt() ? groups->toInt() : 0;
}

// What the sum `sum` adds to the result of `it`, if `it` can do that.
Value* added(const Convolution& it, Node* sum, const Shapes& shapes) {
  // oneDNN has no quick kernel for groups with a sum.
  if (!is_bare(it.node) || it.groups != 1 || !sum || !is_plain_sum(sum)) return nullptr;
  Value* own = it.node->output();
  Value* other = sum->input(sum->input(0) == own ? 1 : 0);
  auto shape = shapes.find(other), own_shape = shapes.find(own);
  if (other == own || shape == shapes.end() || own_shape == shapes.end() || !(shape->second == own_shape->second)) return nullptr;
  // Of two convolutions that are summed, the later one makes the sum.
  const bool other_can = is_bare(other->node()) && groups_of(other->node()) == 1;
  if (other_can && only_reader(other) == sum && it.node->isBefore(other->node())) return nullptr;
  return other;
}

// Takes what is dead out of the graph, and out of the list.
void tidy(const std::shared_ptr<Graph>& graph, std::vector<Convolution>& convolutions) {
  EliminateDeadCode(graph);
  const std::unordered_set<const Node*> alive(graph->nodes().begin(), graph->nodes().end());
  const auto dead = [&](const Convolution& it) { return alive.count(it.node) == 0; };
  convolutions.erase(std::remove_if(convolutions.begin(), convolutions.end(), dead), convolutions.end());
}

}  // namespace

bool is_writing(const Node* node) {
  const auto* schema = node->maybeSchema();
  return schema && schema->is_mutable();
}

bool writes(Block* block) {
  for (Node* node : block->nodes()) {
    if (is_writing(node)) return true;
    for (Block* inner : node->blocks()) {
      if (writes(inner)) return true;
    }
  }
  return false;
}

bool is_fused(const Node* node) {
  return node->kind() == pointwise();
}

bool is_fused_sum(const Node* node) {
  return is_fused(node) && node->inputs().size() == PointwiseInputs::count_with_sum;
}

std::vector<Convolution> give_to_onednn(const std::shared_ptr<Graph>& graph, const Stack& example) {
  std::vector<Convolution> given;
  const IValue& images = example.back();
  const bool fits = images.isTensor() && images.toTensor().is_cpu() && images.toTensor().scalar_type() == at::kFloat;
  if (!fits || !available()) return given;
  RemoveTensorMutation(graph);
  // A list of its own: the graph's changes.
  const std::vector<Node*> nodes(graph->nodes().begin(), graph->nodes().end());
  for (Node* node : nodes) {
    auto it = node->kind().is_aten() ? convolution(node) : std::nullopt;
    if (!it || it->weight.scalar_type() != at::kFloat || !it->weight.is_cpu()) continue;
    Node* reader = only_reader(node->output());
    auto then = reader ? activation(reader) : std::nullopt;
    Node* last = then ? reader : node;
    WithInsertPoint at(node);
    Node* fused = insert_pointwise(*graph, *it, nullptr, then.value_or(Activation{}));
    fused->output()->copyMetadata(last->output());
    last->output()->replaceAllUsesWith(fused->output());
    it->node = fused;
    given.push_back(std::move(*it));
  }
  // With what they replace.
  tidy(graph, given);
  return given;
}

void fuse_sums(const std::shared_ptr<Graph>& graph, std::vector<Convolution>& convolutions, Shapes& shapes) {
  // The convolution is made where the sum was, later than before: nothing may overwrite its input in between.
  if (writes(graph->block())) return;
  for (Convolution& it : convolutions) {
    Node* sum = only_reader(it.node->output());
    Value* other = added(it, sum, shapes);
    if (!other) continue;
    Node* behind = only_reader(sum->output());
    // After a sum the operation takes this one only.
    const bool rectified = behind && behind->kind() == aten::relu;
    Node* last = rectified ? behind : sum;
    WithInsertPoint at(sum);
    Node* fused = insert_pointwise(*graph, it, other, rectified ? Activation{"relu"} : Activation{});
    fused->output()->copyMetadata(last->output());
    shapes[fused->output()] = shapes.at(it.node->output());
    last->output()->replaceAllUsesWith(fused->output());
    it.node = fused;
  }
  tidy(graph, convolutions);
}

void pack_weights(const std::shared_ptr<Graph>& graph, const std::vector<Convolution>& convolutions, const Shapes& shapes) {
  for (const Convolution& it : convolutions) {
    auto image = shapes.find(it.node->input(PointwiseInputs::image));
    if (image == shapes.end()) continue;
    Stack stack{it.weight.contiguous(), it.padding, it.stride, it.dilation, it.groups, image->second.sizes};
    reordering()->callBoxed(stack);
    WithInsertPoint at(it.node);
    // An ordinary constant cannot hold such a tensor.
    Node* constant = graph->insertNode(graph->create(prim::ConstantMKLDNNTensor, 1));
    constant->t_(attr::value, stack.at(0).toTensor());
    it.node->replaceInput(PointwiseInputs::weight + is_fused_sum(it.node), constant->output());
  }
  EliminateDeadCode(graph);
}

}  // namespace trawl
