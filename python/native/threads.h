#pragma once

namespace machete::python {

/// Lets the OpenMP regions that this thread enters have `count` threads, torch's number. In a forked child the thread
/// that called fork gets one: the pool it would use did not survive, and waiting for it would never end.
void use_threads(int count);

}  // namespace machete::python
