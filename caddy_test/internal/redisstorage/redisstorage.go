// Package redisstorage is a storage of Caddy on a real redis-server: what a
// published module does, as small as it can be.
package redisstorage

import (
	_ "embed"
	"net"
	"os/exec"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

//go:embed testdata/module.go
var module string

// Binary returns the path of a caddy with this storage.
func Binary(tb testing.TB) string {
	tb.Helper()
	return harness.SharedBinaryWith(tb, "redisstorage", module)
}

// Option is the global option for it: keys and locks begin with a prefix, so
// that several clusters may use one server.
func Option(address, prefix string) string { return "storage small_redis " + address + " " + prefix }

// Entries returns what is stored under a prefix, by the keys without it.
func Entries(tb testing.TB, address, prefix string) map[string]string {
	tb.Helper()
	entries := make(map[string]string)
	for _, key := range strings.Fields(cli(tb, address, "KEYS", prefix+"/value/*")) {
		// A key that is gone meanwhile is empty.
		if value := strings.TrimSuffix(cli(tb, address, "HGET", key, "value"), "\n"); value != "" {
			entries[strings.TrimPrefix(key, prefix+"/value/")] = value
		}
	}
	return entries
}

// cli runs a command of Redis by its own client.
func cli(tb testing.TB, address string, args ...string) string {
	tb.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		tb.Fatal(err)
	}
	out, err := exec.Command("redis-cli", append([]string{"-h", host, "-p", port, "--raw"}, args...)...).Output()
	if err != nil {
		tb.Fatalf("redis-cli %v: %v", args, err)
	}
	return string(out)
}
