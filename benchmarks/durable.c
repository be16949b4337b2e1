/* Has a program fsync each file as it closes it, as contourd does before it answers. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int fclose(FILE *file) {
    static int (*real)(FILE *);
    if (real == NULL) real = dlsym(RTLD_NEXT, "fclose");
    fflush(file);
    fsync(fileno(file));
    return real(file);
}
