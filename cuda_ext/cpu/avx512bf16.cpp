#if defined(__x86_64__)
#include "vector_avx512.h"
#include "products.inc.h"
#include "table.inc.h"

namespace p2pnode {
constexpr Kernels avx512bf16 = table("avx512bf16", product);
}
#endif
