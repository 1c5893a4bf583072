// Objects that are expensive to make and used by one thread at a time.
//
// Thread-safety: Take may be called from any thread. Ownership: a Lease gives its object back when
// it is destroyed; the recycler must outlive its leases.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace embery {

template <typename T>
class Recycler {
 public:
  class Lease {
   public:
    Lease(Recycler& home, std::unique_ptr<T> object) : home_(home), object_(std::move(object)) {}
    ~Lease() { home_.Return(std::move(object_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    T& operator*() const { return *object_; }
    T* operator->() const { return object_.get(); }

   private:
    Recycler& home_;
    std::unique_ptr<T> object_;
  };

  Lease Take() {
    MutexLock lock(mutex_);
    if (free_.empty()) return Lease(*this, std::make_unique<T>());
    std::unique_ptr<T> object = std::move(free_.back());
    free_.pop_back();
    return Lease(*this, std::move(object));
  }

 private:
  void Return(std::unique_ptr<T> object) {
    MutexLock lock(mutex_);
    free_.push_back(std::move(object));
  }

  Mutex mutex_;
  std::vector<std::unique_ptr<T>> free_ GUARDED_BY(mutex_);
};

}  // namespace embery
