#pragma once
#include <stddef.h>
int atoi(const char *text);
