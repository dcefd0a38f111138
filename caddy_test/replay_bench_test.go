package caddy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// BenchmarkReplayBuffer sends bodies of several sizes through a Caddy, built
// without the race detector, whose upstream refuses nothing: what it costs to
// keep them for a replay that does not come. It tells, beside the time, how many
// allocations a request is to Caddy, how many bytes, and how much memory the
// process has used at most. For comparison there is a plain reverse_proxy.
func BenchmarkReplayBuffer(b *testing.B) {
	binary := harness.BinaryWithoutRace(b)
	upstream := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 64<<10))
	}))
	b.Cleanup(upstream.Close)
	for _, size := range []int64{0, 1 << 10, 64 << 10, 10 << 20} {
		for _, way := range []struct{ name, site string }{
			{"reverse_proxy", "reverse_proxy " + upstream.URL},
			{"replay_on=off", "inject_token crm " + upstream.URL + " {\n replay_on off\n}"},
			{"replay_buffer=0", "inject_token crm " + upstream.URL + " {\n replay_buffer 0\n}"},
			{"replay_buffer=64KiB", "inject_token crm " + upstream.URL},
			{"replay_buffer=16MiB", "inject_token crm " + upstream.URL + " {\n replay_buffer 16MiB\n}"},
		} {
			for _, framing := range []string{"length", "chunked"} {
				if size == 0 && framing == "chunked" {
					continue
				}
				b.Run(fmt.Sprintf("%dB/%s/%s", size, framing, way.name), func(b *testing.B) {
					benchmarkUploads(b, binary, way.site, size, framing == "chunked")
				})
			}
		}
	}
}

// benchmarkUploads has four callers for each processor, and a Caddy of its own
// for the peak of its memory.
func benchmarkUploads(b *testing.B, binary, site string, size int64, chunked bool) {
	p := provider.New(b, provider.Dialect{})
	text, url := caddyfile(b, crmSource(p, ""), site)
	text = strings.Replace(text, "{{globals}}", "{{globals}}\n log {\n level INFO\n}", 1)
	c := harness.Start(b, text, harness.Executable(binary), withSecret(provider.ClientSecret), harness.Env("GOGC=100"))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, WriteBufferSize: 64 << 10}}
	defer client.CloseIdleConnections()
	send := func() error {
		var body io.Reader
		if size > 0 {
			body = io.NopCloser(newStream(size))
		}
		req, err := http.NewRequest(http.MethodPut, url, body)
		if err != nil {
			return err
		}
		if size > 0 && !chunked {
			req.ContentLength = size
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("answered %d, %v", resp.StatusCode, err)
		}
		return nil
	}
	if err := send(); err != nil { // waits for the token
		b.Fatal(err)
	}
	b.SetBytes(size)
	b.SetParallelism(4)
	before := memoryOf(b, c)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := send(); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	after := memoryOf(b, c)
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "caddy-allocs/op")
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N), "caddy-B/op")
	if peak, ok := peakMemory(c.PID()); ok {
		b.ReportMetric(peak/(1<<20), "caddy-peak-MiB")
	}
}

// memory is what Go counts of allocations.
type memory struct{ Mallocs, TotalAlloc uint64 }

func memoryOf(tb testing.TB, c *harness.Caddy) memory {
	tb.Helper()
	var vars struct{ Memstats memory }
	if err := json.Unmarshal([]byte(c.AdminGet("/debug/vars")), &vars); err != nil || vars.Memstats.Mallocs == 0 {
		tb.Fatalf("the admin API does not tell the allocations: %v", err)
	}
	return vars.Memstats
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peakMemory returns how many bytes a process has had in memory at most. Only
// Linux tells.
func peakMemory(pid int) (bytes float64, ok bool) {
	status, err := os.ReadFile("/proc/" + itoa(pid) + "/status")
	if err != nil {
		return 0, false
	}
	m := highWater.FindSubmatch(status)
	if m == nil {
		return 0, false
	}
	kilobytes, err := strconv.ParseFloat(string(m[1]), 64)
	return kilobytes * 1024, err == nil
}
