package harness

import (
	"net"
	"sync"
	"testing"
)

var ports struct {
	mu    sync.Mutex // guards given
	given map[int]bool
}

// Port returns a port on loopback that is free, and that no other test of this
// process gets.
func Port(tb testing.TB) int {
	tb.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.given == nil {
		ports.given = make(map[int]bool)
	}
	for range 100 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		l.Close()
		if !ports.given[port] {
			ports.given[port] = true
			return port
		}
	}
	tb.Fatal("no free port")
	return 0
}
