#include "native/threads.h"

#include <omp.h>
#include <pthread.h>

namespace machete::python {
namespace {

thread_local bool lost_pool = false;

[[maybe_unused]] const int kRegistered = pthread_atfork(nullptr, nullptr, [] { lost_pool = true; });

}  // namespace

void use_threads(int count) { omp_set_num_threads(lost_pool || count < 1 ? 1 : count); }

}  // namespace machete::python
