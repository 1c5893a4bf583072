// The default floating-point environment, whatever the calling thread has set.
//
// A thread may have asked its processor to treat subnormal numbers as zero
// (torch.set_flush_denormal does), and new threads inherit that: rows would then depend on the
// thread that touches them.
//
// Thread-safety: acts on the calling thread. Ownership: gives back what it found when destroyed.
#pragma once

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace embery {

class DefaultFloatEnvironment {
 public:
#if defined(__SSE2__)
  DefaultFloatEnvironment() : found_(_mm_getcsr()) { _mm_setcsr(kDefault); }
  ~DefaultFloatEnvironment() { _mm_setcsr(found_); }
#else
  DefaultFloatEnvironment() = default;
  ~DefaultFloatEnvironment() = default;
#endif
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

#if defined(__SSE2__)
 private:
  // Round to nearest, subnormals kept, all exceptions masked: the value after a reset.
  static constexpr unsigned kDefault = 0x1f80;
  unsigned found_;
#endif
};

}  // namespace embery
