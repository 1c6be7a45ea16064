// The version of libtorch, and streams and memory of CUDA devices: what tch has no words for.
//
// By the device-independent half of libtorch only, so that this links, and a CPU worker starts, without the CUDA half.

#include "shim.h"

#include "guard.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

namespace {

c10::DeviceIndex index_of(int device) {
  return static_cast<c10::DeviceIndex>(device);
}

}  // namespace

extern "C" {

const char* trawl_torch_version() {
  return TORCH_VERSION;
}

char* trawl_own_stream(int device) {
  return trawl_guarded([&] {
    const c10::impl::VirtualGuardImpl guard(c10::kCUDA);
    const c10::Device on(c10::kCUDA, index_of(device));
    guard.exchangeStream(guard.getStreamFromGlobalPool(on));
  });
}

char* trawl_device_memory(int device, uint64_t* bytes) {
  return trawl_guarded([&] {
    const auto stats = at::getDeviceAllocator(c10::kCUDA)->getDeviceStats(index_of(device));
    const auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *bytes = static_cast<uint64_t>(stats.reserved_bytes[all].current);
  });
}
}
