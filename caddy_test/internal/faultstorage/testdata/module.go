// This file is compiled into a caddy of the tests, as a module that somebody
// adds to Caddy.

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(controlledStorage{}) }

// controlledStorage is Caddy's file storage, which asks a test before and after
// everything it does.
type controlledStorage struct {
	Root    string `json:"root,omitempty"`
	Control string `json:"control,omitempty"`
}

func (controlledStorage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.controlled", New: func() caddy.Module { return new(controlledStorage) }}
}

func (s *controlledStorage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&s.Root, &s.Control) {
		return d.ArgErr()
	}
	return nil
}

func (s controlledStorage) CertMagicStorage() (certmagic.Storage, error) {
	return &controlled{&certmagic.FileStorage{Path: s.Root}, s.Control}, nil
}

type controlled struct {
	files   *certmagic.FileStorage
	control string
}

type operation struct {
	PID   int
	Op    string
	Key   string
	After bool
}

type verdict struct {
	Errno syscall.Errno
	Value []byte
}

// ask asks the test, for as long as it takes: it does not end with the context,
// as an operation of a file system that hangs does not. Where the test is over,
// everything works.
func (c *controlled) ask(op, key string, after bool) (verdict, error) {
	question, _ := json.Marshal(operation{os.Getpid(), op, key, after})
	resp, err := http.Post(c.control, "application/json", bytes.NewReader(question))
	if err != nil {
		return verdict{}, nil
	}
	defer resp.Body.Close()
	var v verdict
	if json.NewDecoder(resp.Body).Decode(&v) != nil {
		return verdict{}, nil
	}
	if v.Errno != 0 {
		return verdict{}, &os.PathError{Op: op, Path: c.files.Filename(key), Err: v.Errno}
	}
	return v, nil
}

// around does an operation between two questions. Where its value is given by
// the test, it is not done.
func (c *controlled) around(op, key string, do func() error) ([]byte, error) {
	v, err := c.ask(op, key, false)
	if err != nil || v.Value != nil {
		return v.Value, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	_, err = c.ask(op, key, true)
	return nil, err
}

func (c *controlled) Lock(ctx context.Context, name string) error {
	_, err := c.around("lock", name, func() error { return c.files.Lock(ctx, name) })
	return err
}

func (c *controlled) TryLock(ctx context.Context, name string) (locked bool, err error) {
	_, err = c.around("lock", name, func() (err error) {
		locked, err = c.files.TryLock(ctx, name)
		return err
	})
	return locked, err
}

func (c *controlled) Unlock(ctx context.Context, name string) error {
	_, err := c.around("unlock", name, func() error { return c.files.Unlock(ctx, name) })
	return err
}

func (c *controlled) Store(ctx context.Context, key string, value []byte) error {
	_, err := c.around("store", key, func() error { return c.files.Store(ctx, key, value) })
	return err
}

func (c *controlled) Load(ctx context.Context, key string) (value []byte, err error) {
	given, err := c.around("load", key, func() (err error) {
		value, err = c.files.Load(ctx, key)
		return err
	})
	if given != nil {
		return given, nil
	}
	return value, err
}

func (c *controlled) Delete(ctx context.Context, key string) error {
	_, err := c.around("delete", key, func() error { return c.files.Delete(ctx, key) })
	return err
}

func (c *controlled) Exists(ctx context.Context, key string) (exists bool) {
	_, _ = c.around("exists", key, func() error {
		exists = c.files.Exists(ctx, key)
		return nil
	})
	return exists
}

func (c *controlled) List(ctx context.Context, prefix string, recursive bool) (keys []string, err error) {
	_, err = c.around("list", prefix, func() (err error) {
		keys, err = c.files.List(ctx, prefix, recursive)
		return err
	})
	return keys, err
}

func (c *controlled) Stat(ctx context.Context, key string) (info certmagic.KeyInfo, err error) {
	_, err = c.around("stat", key, func() (err error) {
		info, err = c.files.Stat(ctx, key)
		return err
	})
	return info, err
}
