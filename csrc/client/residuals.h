// What rounding took from the gradients of a table's keys, to be added to their next ones: error
// feedback (Seide et al., "1-Bit Stochastic Gradient Descent", 2014; Karimireddy et al., "Error
// Feedback Fixes SignSGD", 2019). What a server receives for a key then adds up to the sum of its
// gradients, but for one residual.
//
// There are residuals of keys that were pushed, and of at most `rows_max` of them. They are kept in
// two generations: when the younger one is full, the older is dropped, and what was not pushed
// since then goes with it; so those of the last rows_max / 2 distinct keys are always there. Which
// ones are depends on the order of pushes alone.
//
// Thread-safety: what requires the mutex says so; the rest may be called from any thread.
// Ownership: owns its rows. Invariant: a key is in one generation, or its row in the older one is
// of no more use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/mutex.h"
#include "base/prefetch.h"
#include "optim/kernels.h"

namespace embery {

class Residuals {
 public:
  // Requires rows_max >= 2.
  Residuals(uint32_t dim, size_t rows_max) : dim_(dim), generation_max_(rows_max / 2) {}

  Mutex& mutex() RETURN_CAPABILITY(mutex_) { return mutex_; }

  // Floats by which an Encode can be taken back.
  size_t undo_floats() const { return 2 * size_t{dim_}; }

  // Adds the key's residual to `grad` (dim), encodes that, and keeps what the encoding lost. A sum
  // that is not finite travels as such, and the residual stays as it was.
  void Encode(const Kernels& kernels, ValueType type, uint64_t key, float* grad, std::byte* encoded,
              float* undo) REQUIRES(mutex_);

  // Starts to fetch what Encode looks at first.
  void Prefetch(uint64_t key) const REQUIRES(mutex_) {
    younger_.Prefetch(key);
    older_.Prefetch(key);
  }

  // Takes back an Encode whose gradient was not applied: to the bit, if no other of that key came
  // between, and else so that nothing is lost and nothing counts twice.
  void Return(uint64_t key, const float* undo) REQUIRES(mutex_);

  void Clear() EXCLUDES(mutex_);

  // All that is kept, for a checkpoint: the `older` keys first that may be dropped first.
  struct Kept {
    std::vector<uint64_t> keys;
    std::vector<float> rows;  // (keys, dim).
    size_t older = 0;
  };
  Kept Export() EXCLUDES(mutex_);

  // Replaces all by what Export returned, here or of the same table in another process, so that
  // the same pushes then do the same. A key may be there more than once: its residuals add up.
  // Requires dim() floats a key in `rows`, and older <= keys.size().
  void Import(std::span<const uint64_t> keys, const float* rows, size_t older) EXCLUDES(mutex_);

  uint32_t dim() const { return dim_; }

  struct Stats {
    uint64_t rows;
    uint64_t dropped;  // Residuals lost because there were too many keys.
  };
  Stats stats() EXCLUDES(mutex_);

 private:
  // Rows by key; open addressing with linear probing at a load of at most one half.
  class Generation {
   public:
    size_t size() const { return keys_.size(); }
    const std::vector<uint64_t>& keys() const { return keys_; }
    void Prefetch(uint64_t key) const {
      if (!heads_.empty()) PrefetchLine(&heads_[Fmix64(key) & (heads_.size() - 1)]);
    }
    // Null if there is none.
    float* Find(uint64_t key, uint32_t dim);
    // Requires that there is none; its contents are undefined.
    float* Insert(uint64_t key, uint32_t dim);
    // Keeps its memory.
    void Clear();

   private:
    uint32_t* HeadOf(uint64_t key);
    float* RowAt(size_t number, uint32_t dim);

    std::vector<uint32_t> heads_;  // Number of the key, plus one.
    std::vector<uint64_t> keys_;
    std::vector<std::unique_ptr<float[]>> blocks_;
  };

  // The key's residual, zeros if it has none yet; valid until the next call.
  float* RowOf(uint64_t key) REQUIRES(mutex_);
  // Drops the older generation; the younger one becomes it.
  void Turn() REQUIRES(mutex_);

  const uint32_t dim_;
  const size_t generation_max_;
  Mutex mutex_;
  Generation younger_ GUARDED_BY(mutex_);
  Generation older_ GUARDED_BY(mutex_);
  uint64_t renewed_ GUARDED_BY(mutex_) = 0;  // Keys of the older generation that moved on.
  uint64_t dropped_ GUARDED_BY(mutex_) = 0;
  std::vector<float> moving_ GUARDED_BY(mutex_);
};

// The part of Residuals in one push of a table.
struct Feedback {
  Residuals* residuals = nullptr;  // Null: what rounding takes is lost.
  float* undo = nullptr;           // undo_floats() for each distinct key.
};

}  // namespace embery
