package harness

import (
	"math/rand/v2"
	"net"
	"strconv"
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
	for range 1000 {
		// Below the ports that systems give to outgoing connections (from 32768
		// on Linux, 49152 elsewhere), which would take it before Caddy does.
		port := 10000 + rand.IntN(22000)
		if ports.given[port] || !free(port) {
			continue
		}
		ports.given[port] = true
		return port
	}
	tb.Fatal("no free port")
	return 0
}

// free says whether nobody listens on a port, by TCP or by UDP (HTTP/3).
func free(port int) bool {
	address := "127.0.0.1:" + strconv.Itoa(port)
	l, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer l.Close()
	p, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	p.Close()
	return true
}
