// A variable in the kernels' thread-local storage, to find where on the running thread that storage lies.
static thread_local int anchor;

extern "C" const void* cudasim_shared_anchor() {
    anchor = anchor + 1;  // storage of a thread exists once it has been touched
    return &anchor;
}
