/*
 * A disk that fails on demand: serves IMAGE as the file `disk` in FOLDER, for a loop device. FAULTS says what fails with EIO: lines of
 * `r FIRST END` or `w FIRST END` (reads or writes that touch bytes FIRST to END - 1); it is read again at each request.
 *
 *     failing-disk FOLDER IMAGE FAULTS
 */
#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int image;
static const char *faults;

static int fails(char what, off_t first, size_t bytes)
{
    char kind;
    long long start, end;
    int found = 0;
    FILE *file = fopen(faults, "re");
    if (file == NULL) return 0;
    while (!found && fscanf(file, " %c %lld %lld", &kind, &start, &end) == 3)
        found = kind == what && first < end && (off_t)(first + bytes) > start;
    fclose(file);
    return found;
}

static int disk_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    (void)info;
    memset(st, 0, sizeof *st);
    st->st_mode = S_IFDIR | 0700;
    st->st_nlink = 1;
    if (strcmp(path, "/") == 0) return 0;
    if (strcmp(path, "/disk") != 0) return -ENOENT;
    if (fstat(image, st) != 0) return -errno;
    return 0;
}

static int disk_open(const char *path, struct fuse_file_info *info)
{
    (void)path;
    /* What was read must come from here, not from a cache. */
    info->direct_io = 1;
    return 0;
}

static int disk_read(const char *path, char *to, size_t bytes, off_t at, struct fuse_file_info *info)
{
    (void)path, (void)info;
    if (fails('r', at, bytes)) return -EIO;
    ssize_t done = pread(image, to, bytes, at);
    return done < 0 ? -errno : (int)done;
}

static int disk_write(const char *path, const char *from, size_t bytes, off_t at, struct fuse_file_info *info)
{
    (void)path, (void)info;
    if (fails('w', at, bytes)) return -EIO;
    ssize_t done = pwrite(image, from, bytes, at);
    return done < 0 ? -errno : (int)done;
}

static int disk_fsync(const char *path, int data, struct fuse_file_info *info)
{
    /* The image only has to survive this process. */
    (void)path, (void)data, (void)info;
    return 0;
}

static const struct fuse_operations operations = {
    .getattr = disk_getattr, .open = disk_open, .read = disk_read, .write = disk_write, .fsync = disk_fsync,
};

int main(int count, char **arguments)
{
    if (count != 4) return fputs("failing-disk FOLDER IMAGE FAULTS\n", stderr), 2;
    image = open(arguments[2], O_RDWR | O_CLOEXEC);
    if (image < 0) return perror(arguments[2]), 1;
    faults = arguments[3];
    char *fuse[] = {arguments[0], "-f", "-s", arguments[1]};
    return fuse_main(4, fuse, &operations, NULL);
}
