// A libcuda.so.1 with the names that cuDNN binds when it is loaded, and no device behind them: cuDNN plans for devices
// that are described to it, and executes nothing. Functions that planning asks something of answer so that it goes on.

#define NO_DEVICE 100  // CUDA_ERROR_NO_DEVICE
#define NOT_FOUND 500  // CUDA_ERROR_NOT_FOUND

// Nothing is declared of them: their arguments are not looked at.
#define REFUSED(name) \
    int name(void) { return NO_DEVICE; }
#define ACCEPTED(name) \
    int name(void) { return 0; }
// Writes a handle that is never used.
#define HANDED_OUT(name)     \
    int name(void **handle) { \
        *handle = (void *)1; \
        return 0;            \
    }

int cuDriverGetVersion(int *version) {
    *version = 13050;
    return 0;
}

int cuGetExportTable(const void **table, const void *id) {
    (void)id;
    if (table) *table = 0;
    return NOT_FOUND;
}

HANDED_OUT(cuLibraryLoadData)
HANDED_OUT(cuLibraryGetKernel)
HANDED_OUT(cuKernelGetFunction)
ACCEPTED(cuLibraryUnload)
ACCEPTED(cuKernelSetAttribute)

REFUSED(cuInit)
REFUSED(cuGetErrorName)
REFUSED(cuGetErrorString)
REFUSED(cuGetProcAddress)
REFUSED(cuGetProcAddress_v2)
REFUSED(cuDeviceGet)
REFUSED(cuDeviceGetCount)
REFUSED(cuCtxGetCurrent)
REFUSED(cuCtxGetLimit)
REFUSED(cuCtxPopCurrent)
REFUSED(cuCtxPopCurrent_v2)
REFUSED(cuCtxPushCurrent)
REFUSED(cuCtxPushCurrent_v2)
REFUSED(cuStreamGetCtx)
REFUSED(cuModuleLoadData)
REFUSED(cuModuleGetFunction)
REFUSED(cuModuleUnload)
REFUSED(cuLibraryLoadFromFile)
REFUSED(cuKernelGetAttribute)
REFUSED(cuLinkCreate)
REFUSED(cuLinkCreate_v2)
REFUSED(cuLinkAddData)
REFUSED(cuLinkAddData_v2)
REFUSED(cuLinkComplete)
REFUSED(cuLinkDestroy)
REFUSED(cuLaunchKernel)
REFUSED(cuLaunchKernelEx)
REFUSED(cuLaunchCooperativeKernel)
REFUSED(cuTensorMapEncodeTiled)
REFUSED(cuTensorMapEncodeIm2col)
REFUSED(cuOccupancyMaxPotentialClusterSize)
