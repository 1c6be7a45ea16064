// What a `trawl_module` is inside: one of two engines.
#pragma once

#include <ATen/core/ivalue.h>

struct trawl_module {
  virtual ~trawl_module() = default;
  // One pass; from several threads at once.
  virtual c10::IValue run(const at::Tensor& input) = 0;
};
