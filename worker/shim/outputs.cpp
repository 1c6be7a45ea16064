// Which of a model's outputs a head is made of. What is within a tuple of tuples has no name here: whoever exports such a
// model flattens it.

#include "outputs.h"

#include <c10/util/Exception.h>

#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace trawl {
namespace {

using Named = std::vector<std::pair<std::string, c10::IValue>>;

// The outputs with their keys, or with their places as text.
Named listed(const c10::IValue& answer) {
  Named outputs;
  if (answer.isGenericDict()) {
    for (const auto& entry : answer.toGenericDict()) {
      outputs.emplace_back(entry.key().isString() ? entry.key().toStringRef() : entry.key().tagKind(), entry.value());
    }
    return outputs;
  }
  const auto add = [&](const c10::IValue& value) { outputs.emplace_back(std::to_string(outputs.size()), value); };
  if (answer.isTuple()) {
    for (const auto& value : answer.toTupleRef().elements()) add(value);
  } else if (answer.isList()) {
    for (const c10::IValue& value : answer.toListRef()) add(value);
  } else {
    add(answer);
  }
  return outputs;
}

std::string in_words(const c10::IValue& answer) {
  std::ostringstream words;
  words << "the model returns " << answer.tagKind();
  if (answer.isTensor()) return words.str();
  const char* before = " of ";
  for (const auto& [name, value] : listed(answer)) {
    words << before << name << ": ";
    if (value.isTensor()) {
      words << value.toTensor().sizes();
    } else {
      words << value.tagKind();
    }
    before = ", ";
  }
  return words.str();
}

at::Tensor tensor_of(const c10::IValue& answer, const c10::IValue& value) {
  TORCH_CHECK(value.isTensor(), in_words(answer), "; what a head is made of must be a tensor: flatten it when exporting");
  return value.toTensor();
}

}  // namespace

at::Tensor pick(const c10::IValue& answer, const trawl_slot& slot) {
  const bool any = slot.key == nullptr && slot.index < 0;
  if (answer.isTensor() && (any || (slot.key == nullptr && slot.index == 0))) return answer.toTensor();
  const Named outputs = answer.isTensor() ? Named{} : listed(answer);
  if (any) {
    TORCH_CHECK(outputs.size() == 1, in_words(answer), ": say in trawl.json which of them the head is made of (`output`)");
    return tensor_of(answer, outputs[0].second);
  }
  if (answer.isGenericDict() && slot.key != nullptr) {
    for (const auto& [name, value] : outputs) {
      if (name == slot.key) return tensor_of(answer, value);
    }
  } else if (!answer.isGenericDict() && slot.index >= 0 && static_cast<size_t>(slot.index) < outputs.size()) {
    return tensor_of(answer, outputs[static_cast<size_t>(slot.index)].second);
  }
  std::ostringstream wanted;
  if (slot.key != nullptr) wanted << '`' << slot.key << '`';
  if (slot.key != nullptr && slot.index >= 0) wanted << " or ";
  if (slot.index >= 0) wanted << "place " << slot.index;
  TORCH_CHECK(false, in_words(answer), "; the bundle's `output` asks for ", wanted.str(), ", which is not there");
}

}  // namespace trawl
