// power_cut DIRECTORY FLAG
//
// Stops the file system of DIRECTORY as a power cut does: from now on nothing reaches its device. FLAG is ext4's and XFS's: 1 writes the
// journal first, 2 does not.
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

// EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN; in no header that is always there.
#define FS_IOC_GOINGDOWN _IOR('X', 125, uint32_t)

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: power_cut DIRECTORY FLAG\n");
        return 2;
    }
    uint32_t flag = (uint32_t)atoi(arguments[2]);
    int directory = open(arguments[1], O_RDONLY | O_DIRECTORY);
    if (directory < 0 || ioctl(directory, FS_IOC_GOINGDOWN, &flag) != 0) {
        perror(arguments[1]);
        return 1;
    }
    return 0;
}
