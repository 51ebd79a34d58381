#if defined(__x86_64__)
#include "vector_avx2.h"
#include "table.inc.h"

namespace p2pnode {
constexpr Kernels avx2 = table("avx2");
}
#endif
