/* Threads, locks and memory as POSIX and Windows have them, under the same names.
 *
 * thread_start(body, argument)   starts a thread that nobody awaits, and that takes no signals; false on failure
 * memory_new(size)               memory that begins at a cache line, NULL on failure; memory_delete frees it
 * key_set(key, memory)           lets the calling thread free the memory when it ends; false on failure
 * in_children(function)          every child of a fork calls the function
 */
#ifndef FASTGD_THREADS_H
#define FASTGD_THREADS_H

#include <stddef.h>

#if defined(_WIN32)

#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include <malloc.h>
#include <process.h>

typedef SRWLOCK mutex;
typedef CONDITION_VARIABLE condition;
typedef DWORD thread_key;
typedef unsigned thread_result;
typedef thread_result (__stdcall *thread_body)(void *argument);

static void mutex_initialize(mutex *m) { InitializeSRWLock(m); }
static void mutex_lock(mutex *m) { AcquireSRWLockExclusive(m); }
static int mutex_try(mutex *m) { return TryAcquireSRWLockExclusive(m); }
static void mutex_unlock(mutex *m) { ReleaseSRWLockExclusive(m); }
static void condition_initialize(condition *c) { InitializeConditionVariable(c); }
static void condition_wait(condition *c, mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void condition_wake_all(condition *c) { WakeAllConditionVariable(c); }

static int thread_start(thread_body body, void *argument)
{
    HANDLE thread = (HANDLE)_beginthreadex(NULL, 0, body, argument, 0, NULL);
    if (thread)
        CloseHandle(thread);
    return thread != NULL;
}

static void *memory_new(size_t size) { return _aligned_malloc(size, 64); }
static void memory_delete(void *memory) { _aligned_free(memory); }

static void key_new(thread_key *key) { *key = FlsAlloc(memory_delete); }
static int key_set(thread_key key, void *memory) { return FlsSetValue(key, memory); }

static void in_children(void (*function)(void)) { (void)function; }     /* no forks */

#else

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

typedef pthread_mutex_t mutex;
typedef pthread_cond_t condition;
typedef pthread_key_t thread_key;
typedef void *thread_result;
typedef thread_result (*thread_body)(void *argument);

static void mutex_initialize(mutex *m) { pthread_mutex_init(m, NULL); }
static void mutex_lock(mutex *m) { pthread_mutex_lock(m); }
static int mutex_try(mutex *m) { return !pthread_mutex_trylock(m); }
static void mutex_unlock(mutex *m) { pthread_mutex_unlock(m); }
static void condition_initialize(condition *c) { pthread_cond_init(c, NULL); }
static void condition_wait(condition *c, mutex *m) { pthread_cond_wait(c, m); }
static void condition_wake_all(condition *c) { pthread_cond_broadcast(c); }

static int thread_start(thread_body body, void *argument)
{
    sigset_t all, before;
    pthread_t thread;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int is_started = !pthread_create(&thread, NULL, body, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (is_started)
        pthread_detach(thread);
    return is_started;
}

static void *memory_new(size_t size)
{
    void *memory;
    return posix_memalign(&memory, 64, size) ? NULL : memory;
}
static void memory_delete(void *memory) { free(memory); }

static void key_new(thread_key *key) { pthread_key_create(key, memory_delete); }
static int key_set(thread_key key, void *memory) { return !pthread_setspecific(key, memory); }

static void in_children(void (*function)(void)) { pthread_atfork(NULL, NULL, function); }

#endif
#endif
