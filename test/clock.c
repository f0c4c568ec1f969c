/*
 * A clock that a test can set.
 *
 * Preloaded into a server (LD_PRELOAD), this adds microseconds to the time of day: the 64-bit
 * integer in the file that BEMI_TEST_CLOCK names.  The server then sees a clock that is set
 * back or forward while it runs, as administrators and virtual machines do it.  A process without that variable has the true time.
 */
#define _GNU_SOURCE

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/*
 * The offset, mapped once; NULL if there is none.
 */
static const volatile int64_t *
offset(void)
{
	static const volatile int64_t *mapped;
	static int	looked;
	const char *name = getenv("BEMI_TEST_CLOCK");

	if (!looked && name != NULL)
	{
		int			file = open(name, O_RDONLY | O_CLOEXEC);
		void	   *memory = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);

		if (memory != MAP_FAILED)
			mapped = memory;
		if (file >= 0)
			close(file);
	}
	looked = 1;
	return mapped;
}

int
gettimeofday(struct timeval *restrict tv, void *restrict zone __attribute__((unused)))
{
	struct timespec now;
	int64_t		microseconds;

	if (syscall(SYS_clock_gettime, CLOCK_REALTIME, &now) != 0)
		return -1;
	microseconds = (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000;
	if (offset() != NULL)
		microseconds += *offset();
	tv->tv_sec = microseconds / 1000000;
	tv->tv_usec = microseconds % 1000000;
	return 0;
}
