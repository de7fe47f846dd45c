/* A driver that is not there: answers as the machine named by NVML_FAKE, which is read at each nvmlInit.
 *
 * Only what pynvml calls for engine.hardware, with the layouts of nvml.h. NVML_FAKE_LOAD is the use of every GPU in
 * percent, for screens that must show a change, and NVML_FAKE_USED the VRAM in MiB that another program holds besides.
 */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, LIBRARY_NOT_FOUND = 12, GPU_IS_LOST = 15, MISMATCH = 18 };

#define MIB (1024ull * 1024ull)
#define NO_INSTANCE (~0u)

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned int gpu, memory; } Utilization;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } Process;

typedef struct { unsigned int pid, mib; } Program;

/* How a card answers where it does not tell a value. */
typedef struct { int lost, memory, sensors, programs, mig; } Answers;

typedef struct {
    const char *name, *uuid;
    unsigned long long total, used;                    /* MiB */
    int major, minor;
    unsigned int temperature, power, limit, load;      /* °C, mW, mW, percent */
    unsigned int cores, clock;                         /* clock in MHz */
    Program compute[4], graphics[4];                   /* ends with pid 0 */
    Answers answers;
} Card;

static const Card RTX_2060 = {
    "NVIDIA GeForce RTX 2060", "GPU-20600000-1111-2222-3333-444455556666", 6144, 1303, 7, 5, 43, 18400, 160000, 4,
    1920, 2100, {{4100003, 512}}, {{4100001, 322}, {4100002, 403}}, {.mig = NOT_SUPPORTED}};
static const Card RTX_4060_TI = {
    "NVIDIA GeForce RTX 4060 Ti", "GPU-40600000-1111-2222-3333-444455556666", 16380, 742, 8, 9, 38, 11200, 165000, 1,
    4352, 3105, {{0}}, {{4100001, 322}, {4100002, 403}}, {.mig = NOT_SUPPORTED}};
static const Card H200 = {
    "NVIDIA H200", "GPU-h2000000-1111-2222-3333-444455556666", 143771, 4, 9, 0, 31, 77300, 700000, 0,
    16896, 1980, {{0}}, {{0}}, {0}};
static const Card A100_SPLIT = {
    "NVIDIA A100-SXM4-80GB", "GPU-a1000000-1111-2222-3333-444455556666", 81920, 0, 8, 0, 34, 61000, 400000, 0,
    6912, 1410, {{0}}, {{0}}, {.memory = NO_PERMISSION, .programs = NO_PERMISSION, .mig = -1}};
static const Card GB10 = {
    "NVIDIA GB10", "GPU-b1000000-1111-2222-3333-444455556666", 0, 0, 12, 1, 40, 9800, 140000, 2,
    6144, 3003, {{4100003, 512}}, {{0}}, {.memory = NOT_SUPPORTED, .mig = NOT_SUPPORTED}};
static const Card K2200 = {
    "Quadro K2200", "GPU-k2200000-1111-2222-3333-444455556666", 4041, 310, 5, 0, 0, 0, 0, 0,
    640, 1124, {{0}}, {{0}}, {.sensors = NOT_SUPPORTED, .programs = NOT_SUPPORTED, .mig = NOT_SUPPORTED}};
static const Card LOST = {.name = "lost", .answers = {.lost = 1}};

typedef struct { const char *name; int init; const Card *cards[3]; } Machine;

static const Machine MACHINES[] = {
    {"rtx2060", SUCCESS, {&RTX_2060}},
    {"rtx4060ti", SUCCESS, {&RTX_4060_TI}},
    {"h200", SUCCESS, {&H200}},
    {"two", SUCCESS, {&RTX_4060_TI, &RTX_2060}},
    {"one_lost", SUCCESS, {&LOST, &RTX_2060}},
    {"mig", SUCCESS, {&A100_SPLIT}},
    {"unified", SUCCESS, {&GB10}},
    {"unsupported", SUCCESS, {&K2200}},
    {"no_gpu", SUCCESS, {0}},
    {"none", LIBRARY_NOT_FOUND, {0}},
    {"no_driver", DRIVER_NOT_LOADED, {0}},
    {"mismatch", MISMATCH, {0}},
    {"no_permission", NO_PERMISSION, {0}},
};
static const Machine *machine = 0;

static int text(const char *from, char *to, unsigned int length) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

static unsigned int load_of(const Card *card) {
    const char *load = getenv("NVML_FAKE_LOAD");
    return load ? (unsigned int)atoi(load) : card->load;
}

int nvmlInitWithFlags(unsigned int flags) {
    const char *name = getenv("NVML_FAKE");
    (void)flags;
    for (size_t i = 0; name && i < sizeof MACHINES / sizeof *MACHINES; i++)
        if (!strcmp(MACHINES[i].name, name)) {
            machine = &MACHINES[i];
            return machine->init;
        }
    return LIBRARY_NOT_FOUND;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "Error"; }

int nvmlSystemGetDriverVersion(char *to, unsigned int length) { return text("580.95.05", to, length); }

int nvmlSystemGetCudaDriverVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}

int nvmlSystemGetProcessName(unsigned int pid, char *to, unsigned int length) {
    static const char *names[] = {"/usr/lib/xorg/Xorg", "/usr/lib/firefox/firefox", "/opt/blender/blender"};
    return pid > 4100000 && pid <= 4100003 ? text(names[pid - 4100001], to, length) : NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned int *count) {
    for (*count = 0; machine->cards[*count];) ++*count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, const Card **card) {
    if (index > 1 || !machine->cards[index]) return INVALID_ARGUMENT;
    *card = machine->cards[index];
    return (*card)->answers.lost ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetName(const Card *card, char *to, unsigned int length) { return text(card->name, to, length); }

int nvmlDeviceGetUUID(const Card *card, char *to, unsigned int length) { return text(card->uuid, to, length); }

int nvmlDeviceGetMemoryInfo(const Card *card, Memory *memory) {
    if (card->answers.memory) return card->answers.memory;
    const char *more = getenv("NVML_FAKE_USED");
    unsigned long long used = card->used + (more ? (unsigned long long)atoi(more) : 0);
    *memory = (Memory){card->total * MIB, (card->total - used) * MIB, used * MIB};
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(const Card *card, int *major, int *minor) {
    *major = card->major;
    *minor = card->minor;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(const Card *card, unsigned int *now, unsigned int *pending) {
    if (card->answers.mig > 0) return card->answers.mig;
    *now = *pending = card->answers.mig < 0;
    return SUCCESS;
}

static int sensor(const Card *card, unsigned int value, unsigned int *to) {
    *to = value;
    return card->answers.sensors;
}

int nvmlDeviceGetTemperature(const Card *card, unsigned int kind, unsigned int *to) {
    return kind ? INVALID_ARGUMENT : sensor(card, card->temperature + load_of(card) / 4, to);
}

int nvmlDeviceGetPowerUsage(const Card *card, unsigned int *to) { return sensor(card, card->power, to); }

int nvmlDeviceGetEnforcedPowerLimit(const Card *card, unsigned int *to) { return sensor(card, card->limit, to); }

int nvmlDeviceGetUtilizationRates(const Card *card, Utilization *to) {
    *to = (Utilization){load_of(card), load_of(card) / 2};
    return card->answers.sensors;
}

int nvmlDeviceGetNumGpuCores(const Card *card, unsigned int *to) {
    *to = card->cores;
    return SUCCESS;
}

int nvmlDeviceGetMaxClockInfo(const Card *card, unsigned int kind, unsigned int *to) {
    *to = card->clock;
    return kind == 1 ? SUCCESS : INVALID_ARGUMENT; /* the clock of the multiprocessors */
}

static int programs(const Card *card, const Program *from, unsigned int *count, Process *to) {
    unsigned int there = 0, room = *count;
    if (card->answers.programs) return card->answers.programs;
    while (there < 4 && from[there].pid) ++there;
    *count = there;
    if (room < there) return INSUFFICIENT_SIZE;
    for (unsigned int i = 0; i < there; i++)
        to[i] = (Process){from[i].pid, from[i].mib * MIB, NO_INSTANCE, NO_INSTANCE};
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(const Card *card, unsigned int *count, Process *to) {
    return programs(card, card->compute, count, to);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(const Card *card, unsigned int *count, Process *to) {
    return programs(card, card->graphics, count, to);
}
