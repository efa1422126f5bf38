#!/usr/bin/env python3
import ctypes, os, signal, time
libc = ctypes.CDLL(None, use_errno=True)
class Part(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
text = ctypes.create_string_buffer(b'text')
part = Part(ctypes.addressof(text), 4)
pid = os.fork()
if pid == 0:
    time.sleep(30)
    os._exit(0)
libc.process_vm_readv(pid, ctypes.byref(part), 1, ctypes.byref(part), 1, 0)
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
