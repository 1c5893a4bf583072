#include "optim/kernels.h"

namespace embery {

namespace simd_baseline {
const Kernels& Get();
}
#if defined(__x86_64__)
namespace simd_avx2 {
const Kernels& Get();
}
namespace simd_avx512 {
const Kernels& Get();
}
#endif

namespace {

std::vector<const Kernels*> Supported() {
  std::vector<const Kernels*> supported;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    supported.push_back(&simd_avx512::Get());
  }
  if (avx2) supported.push_back(&simd_avx2::Get());
#endif
  supported.push_back(&simd_baseline::Get());
  return supported;
}

}  // namespace

std::vector<std::string> SimdTargets() {
  std::vector<std::string> names;
  for (const Kernels* kernels : Supported()) names.emplace_back(kernels->name);
  return names;
}

Result<const Kernels*> FindKernels(const std::string& name) {
  std::string known;
  for (const Kernels* kernels : Supported()) {
    if (name == "auto" || name == kernels->name) return kernels;
    known += std::string(known.empty() ? "" : ", ") + kernels->name;
  }
  return Status::InvalidArgument("simd target '" + name +
                                 "' is not one this processor runs: auto, " + known);
}

}  // namespace embery
