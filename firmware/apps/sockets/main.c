/* The firmware: the socket service on one core. The same image runs on all cores. */
#include "service.h"

static struct stack stack;
static struct service service;

int main(void)
{
    if (boot_check() != 0 || stack_init(&stack) != 0 || service_init(&service, &stack) != 0) {
        boot_failed();
        return 1;
    }
    const struct program program = service_program(&service);
    boot_ready();
    executive_run(&stack, &program);
}
