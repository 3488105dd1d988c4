#pragma once

#include <cstddef>

/// What is called of Python's stable ABI, declared here: the same library serves every version, and needs no headers of
/// any. All but PyEval_RestoreThread is called with the interpreter's lock held.
// NOLINTBEGIN(readability-identifier-naming,bugprone-reserved-identifier)
extern "C" {

struct PyObject;

struct PyMethodDef {
  const char* name;
  PyObject* (*call)(PyObject* self, PyObject* const* arguments, std::ptrdiff_t count);
  int flags;
  const char* doc;
};
constexpr int METH_FASTCALL = 0x80;

extern PyObject _Py_NoneStruct;

void Py_IncRef(PyObject*);
void Py_DecRef(PyObject*);
PyObject* PyCFunction_NewEx(PyMethodDef*, PyObject* self, PyObject* module);
PyObject* PyCapsule_New(void*, const char* name, void (*destructor)(PyObject*));
void* PyCapsule_GetPointer(PyObject*, const char* name);
PyObject* PyObject_Type(PyObject*);
PyObject* PyObject_GetAttr(PyObject*, PyObject* name);
PyObject* PyObject_CallNoArgs(PyObject*);
PyObject* PyObject_CallFunctionObjArgs(PyObject*, ...);
PyObject* PyObject_CallMethodObjArgs(PyObject*, PyObject* name, ...);
int PyObject_IsTrue(PyObject*);
PyObject* PyUnicode_InternFromString(const char*);
PyObject* PyTuple_New(std::ptrdiff_t);
int PyTuple_SetItem(PyObject*, std::ptrdiff_t, PyObject* stolen);
PyObject* PyTuple_GetItem(PyObject*, std::ptrdiff_t);  // borrowed
PyObject* PyLong_FromLongLong(long long);
long PyLong_AsLong(PyObject*);
void PyErr_Clear();
void* PyEval_SaveThread();
void PyEval_RestoreThread(void*);
}
// NOLINTEND(readability-identifier-naming,bugprone-reserved-identifier)
