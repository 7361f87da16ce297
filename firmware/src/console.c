/* Console: a small formatter over the console FIFO. */
#include "drivers.h"

void console_put(char byte)
{
    mmio_write(TS_CONSOLE_DATA, (uint8_t)byte);
}

static void put_number(uint32_t value, uint32_t base, unsigned width, char fill)
{
    char digits[10];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value != 0u);
    while (width-- > count) {
        console_put(fill);
    }
    while (count > 0u) {
        console_put(digits[--count]);
    }
}

/* %s %c %d %u %x with a width up to 9 and zero fill. */
void console_printf(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    for (; *format != '\0'; format++) {
        if (*format != '%') {
            console_put(*format);
            continue;
        }
        char fill = ' ';
        unsigned width = 0;
        format++;
        if (*format == '0') {
            fill = '0';
            format++;
        }
        if (*format >= '1' && *format <= '9') {
            width = (unsigned)(*format++ - '0');
        }
        if (*format == 's') {
            for (const char *text = va_arg(arguments, const char *); *text != '\0'; text++) {
                console_put(*text);
            }
        } else if (*format == 'c') {
            console_put((char)va_arg(arguments, int));
        } else if (*format == 'd') {
            int value = va_arg(arguments, int);
            if (value < 0) {
                console_put('-');
            }
            put_number(value < 0 ? 0u - (uint32_t)value : (uint32_t)value, 10u, width, fill);
        } else if (*format == 'u' || *format == 'x') {
            put_number(va_arg(arguments, uint32_t), *format == 'u' ? 10u : 16u, width, fill);
        } else if (*format == '\0') {
            break;
        } else {
            console_put(*format);
        }
    }
    va_end(arguments);
}
