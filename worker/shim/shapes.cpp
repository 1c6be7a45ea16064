// Looks up shapes by running a copy of the graph that gives them instead of its outputs.
//
// When a model is loaded, for the passes of passes.cpp. Must leave the graph as it is.

#include "shapes.h"

#include <torch/csrc/jit/ir/ir.h>
#include <torch/csrc/jit/runtime/interpreter.h>

using namespace torch::jit;

namespace trawl {

Shapes shapes_of(const std::shared_ptr<Graph>& graph, const Stack& example) {
  auto copy = std::make_shared<Graph>();
  std::unordered_map<Value*, Value*> copied;
  std::vector<const Value*> tensors;
  const auto take = [&](Value* value, Value* twin) {
    copied[value] = twin;
    if (value->type()->isSubtypeOf(*TensorType::get())) tensors.push_back(value);
  };
  for (Value* input : graph->inputs()) take(input, copy->addInput()->copyMetadata(input));
  for (Node* node : graph->nodes()) {
    Node* twin = copy->insertNode(copy->createClone(node, [&](Value* value) { return copied.at(value); }));
    for (size_t i = 0; i < node->outputs().size(); ++i) take(node->output(i), twin->output(i));
  }
  for (const Value* value : tensors) {
    // Where it is made: what overwrites it later may change its shape.
    Value* twin = copied.at(const_cast<Value*>(value));
    WithInsertPoint at(twin->node()->kind() == prim::Param ? *copy->nodes().begin() : twin->node()->next());
    copy->registerOutput(copy->insert(aten::size, {twin}));
    copy->registerOutput(copy->insert(prim::dtype, {twin}));
  }
  Stack stack = example;
  InterpreterState(Code(copy, "shapes")).run(stack);
  Shapes shapes;
  for (size_t i = 0; i < tensors.size(); ++i) shapes[tensors[i]] = {stack.at(2 * i).toIntVector(), stack.at(2 * i + 1).toInt()};
  return shapes;
}

}  // namespace trawl
