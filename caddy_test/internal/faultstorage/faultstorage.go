// Package faultstorage is a storage of Caddy that fails as a test wants it to:
// Caddy's file storage, which asks the test before and after everything it
// does.
package faultstorage

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

//go:embed testdata/module.go
var module string

// Caddy starts Caddy with this storage among its modules. {{storage}} in a
// Caddyfile is the global option for it.
func (c *Control) Caddy(tb testing.TB, caddyfile string, options ...harness.Option) *harness.Caddy {
	tb.Helper()
	caddyfile = strings.ReplaceAll(caddyfile, "{{storage}}", "storage controlled "+c.Root+" "+c.url)
	return harness.Start(tb, caddyfile, append(options, harness.Executable(Binary(tb)))...)
}

// Binary returns the path of a caddy with this storage.
func Binary(tb testing.TB) string {
	tb.Helper()
	return harness.SharedBinaryWith(tb, "faultstorage", module)
}

// Operation is something that a storage is about to do, or has done.
type Operation struct {
	PID   int    // of the Caddy
	Op    string // lock, unlock, store, load, delete, exists, list or stat
	Key   string // or the name of a lock
	After bool   // it is done, and nobody knows yet
}

// Source returns the token source whose key or lock it is, or "".
func (o Operation) Source() string {
	if name, ok := strings.CutPrefix(o.Key, "token_sources/"); ok {
		name, _, _ = strings.Cut(name, "/")
		return name
	}
	if name, ok := strings.CutPrefix(o.Key, "token_sources_"); ok {
		return name[:max(0, strings.LastIndexByte(name, '_'))]
	}
	return ""
}

// OfToken says whether it concerns the record that holds the token.
func (o Operation) OfToken() bool { return strings.HasSuffix(o.Key, "/token.json") }

// OfIntent says whether it concerns what a node stores before it sends a
// refresh token.
func (o Operation) OfIntent() bool { return strings.Contains(o.Key, "/intent-") }

// Verdict is what becomes of an operation. The zero value lets it work.
type Verdict struct {
	Errno syscall.Errno // it fails
	Value []byte        // what is loaded instead of what is there
}

// Rule decides about operations. It may wait, but no longer than the context
// lives: that of the process, or of the test.
type Rule func(ctx context.Context, o Operation) Verdict

// Control is a storage and who decides what becomes of its operations.
type Control struct {
	// Root is the folder of the storage.
	Root string

	url  string
	done chan struct{} // closed when the test ends

	mu    sync.Mutex // guards rules
	rules map[string]Rule
}

// New makes a storage that works, until the test ends.
func New(tb testing.TB) *Control {
	c := &Control{
		Root: filepath.Join(tb.TempDir(), "storage"), done: make(chan struct{}),
		rules: make(map[string]Rule),
	}
	server := httptest.NewServer(c)
	c.url = server.URL
	tb.Cleanup(func() {
		close(c.done)
		server.Close()
	})
	return c
}

// Set gives a token source another rule; nil lets everything work.
func (c *Control) Set(source string, rule Rule) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rules[source] = rule
}

// Files returns the paths of a source's files of a name, such as token.json or
// intent-*.json.
func (c *Control) Files(source, name string) []string {
	found, _ := filepath.Glob(filepath.Join(c.Root, "token_sources", source, "*", name))
	return found
}

// Record returns what is stored of a source's token, or nil.
func (c *Control) Record(source string) map[string]any {
	for _, path := range c.Files(source, "token.json") {
		var record map[string]any
		if text, err := os.ReadFile(path); err == nil && json.Unmarshal(text, &record) == nil {
			return record
		}
	}
	return nil
}

// ServeHTTP answers the questions of the storage.
func (c *Control) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var o Operation
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	rule := c.rules[o.Source()]
	c.mu.Unlock()
	var v Verdict
	if rule != nil {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() {
			select {
			case <-c.done:
				cancel()
			case <-ctx.Done():
			}
		}()
		v = rule(ctx, o)
	}
	_ = json.NewEncoder(w).Encode(v)
}

// Full is a disk on which nothing can be written.
func Full(_ context.Context, o Operation) Verdict {
	if !o.After && (o.Op == "store" || o.Op == "lock") {
		return Verdict{Errno: syscall.ENOSPC}
	}
	return Verdict{}
}

// ReadOnly is a file system that cannot be changed.
func ReadOnly(_ context.Context, o Operation) Verdict {
	switch o.Op {
	case "store", "delete", "lock", "unlock":
		if !o.After {
			return Verdict{Errno: syscall.EROFS}
		}
	}
	return Verdict{}
}

// Hang is a file system on which nothing ends until it is released.
func Hang(release <-chan struct{}) Rule {
	return func(ctx context.Context, _ Operation) Verdict {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return Verdict{}
	}
}

// Garbage is a storage that has something else where the token should be.
func Garbage(value string) Rule {
	return func(_ context.Context, o Operation) Verdict {
		if o.Op == "load" && o.OfToken() {
			return Verdict{Value: []byte(value)}
		}
		return Verdict{}
	}
}

// DeadLock is a lock that a process has taken which was killed then, a moment
// before somebody else asks for it. Caddy's file storage breaks such a lock
// after 10 seconds; but where a process held it shortly before that one did, it
// never does, since the former keeps the lock of the latter fresh.
func (c *Control) DeadLock() Rule {
	var once sync.Once
	return func(_ context.Context, o Operation) Verdict {
		if o.Op == "lock" && !o.After {
			once.Do(func() { c.leaveLock(o.Key) })
		}
		return Verdict{}
	}
}

// leaveLock writes a lock's file as certmagic does.
func (c *Control) leaveLock(name string) {
	now := time.Now().Format(time.RFC3339Nano)
	folder := filepath.Join(c.Root, "locks")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		panic(err)
	}
	text := fmt.Sprintf(`{"created":%q,"updated":%q}`, now, now)
	if err := os.WriteFile(filepath.Join(folder, name+".lock"), []byte(text), 0o600); err != nil {
		panic(err)
	}
}
