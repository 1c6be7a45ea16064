// Turns what a function throws into words for Rust: an exception must not reach it.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

template <typename F>
char* trawl_guarded(F&& work) {
  try {
    work();
    return nullptr;
  } catch (const c10::Error& e) {
    // Without the C++ stack of a hundred lines.
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an exception of an unknown kind");
  }
}
