// Finds one tensor in what a model returns: a tensor, or a tuple, list or dict of tensors.
#pragma once

#include "shim.h"

#include <ATen/core/ivalue.h>

namespace trawl {

// Throws with words that list what there is, if it is not there.
at::Tensor pick(const c10::IValue& answer, const trawl_slot& slot);

}  // namespace trawl
