#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/gpu/workbench.h"

// The programs of examples/, which lie beside the tests and check their own results.
namespace machete::tests {
namespace {

class Examples : public GpuTest {};

TEST_F(Examples, VisitorTree) {
  const auto program = std::filesystem::read_symlink("/proc/self/exe").replace_filename("softcap");
  ASSERT_TRUE(std::filesystem::exists(program)) << program;
  EXPECT_EQ(std::system(program.c_str()), 0);
}

}  // namespace
}  // namespace machete::tests
