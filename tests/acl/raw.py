"""The simulated library called as a C program would, with no session between."""

import ctypes

from omfuse.acl.library import AclLibrary
from omfuse.acl.prototypes import IODims
from omfuse.sim.device import SimulatedDevice

H2H, H2D, D2H, D2D = range(4)


class Raw:
    """Calls return their code; ``made`` collects what a test has to give back."""

    def __init__(self, device: SimulatedDevice, path: str) -> None:
        self.library = AclLibrary(device.path, share_symbols=False)
        self.path = path.encode()

    def __getattr__(self, name: str):
        return lambda *args: self.library._function(name)(*args)

    def start(self, device: int = 0) -> None:
        assert self.aclInit(None) == 0
        assert self.aclrtSetDevice(device) == 0

    def stop(self, device: int = 0) -> None:
        assert self.aclrtResetDevice(device) == 0
        assert self.aclFinalize() == 0

    def pointer(self, name: str, *args):
        found = ctypes.c_void_p()
        code = getattr(self, name)(ctypes.byref(found), *args)
        assert code == 0, (name, code)
        return found.value

    def malloc(self, size: int) -> int:
        return self.pointer("aclrtMalloc", size, 0)

    def load(self) -> int:
        found = ctypes.c_uint32()
        assert self.aclmdlLoadFromFile(self.path, ctypes.byref(found)) == 0
        return found.value

    def dataset(self, *blocks: tuple[int | None, int]) -> int:
        made = self.aclmdlCreateDataset()
        for address, size in blocks:
            self.aclmdlAddDatasetBuffer(made, self.aclCreateDataBuffer(address, size))
        return made

    def drop(self, dataset: int) -> None:
        """Destroy a dataset with its buffers and their memory."""
        count = self.aclmdlGetDatasetNumBuffers(dataset)
        buffers = [self.aclmdlGetDatasetBuffer(dataset, i) for i in range(count)]
        self.aclmdlDestroyDataset(dataset)
        addresses = {self.aclGetDataBufferAddr(buffer) for buffer in buffers} - {None}
        for buffer in buffers:
            self.aclDestroyDataBuffer(buffer)
        for address in addresses:
            self.aclrtFree(address)


def dims(*sizes: int) -> IODims:
    made = IODims()
    made.dimCount = len(sizes)
    made.dims[: len(sizes)] = sizes
    return made
