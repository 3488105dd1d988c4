// A forked child has lost the threads of OpenMP's pool, and waiting for them would never end: the thread that forked
// goes on alone there. Its own new threads have pools of their own.

#include <omp.h>
#include <pthread.h>

namespace machete::python {
namespace {

[[maybe_unused]] const int kRegistered = pthread_atfork(nullptr, nullptr, [] { omp_set_num_threads(1); });

}  // namespace
}  // namespace machete::python
