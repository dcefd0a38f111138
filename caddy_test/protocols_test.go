package caddy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestEveryProtocolPassesInFrontAndBehind sends a body with trailers through
// each pair of protocols and wants body and trailers back.
func TestEveryProtocolPassesInFrontAndBehind(t *testing.T) {
	t.Parallel()
	p := provider.New(t, provider.Dialect{})
	handler := guarded(p, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Announced")
		w.Header().Set("X-Protocol", r.Proto)
		w.Header().Set("X-Query", r.URL.RawQuery)
		w.WriteHeader(http.StatusAccepted)
		n, err := io.Copy(w, r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Announced", fmt.Sprintf("%d bytes and %s", n, r.Trailer.Get("X-Sum")))
		w.Header().Set(http.TrailerPrefix+"Unannounced", "it came late")
	})
	plain, tls := serve(t, handler), serveTLS(t, handler)
	const verify = "tls_insecure_skip_verify"
	behind := []struct{ name, upstream, transport, protocol string }{
		{"HTTP/1.1", plain, "versions 1.1", "HTTP/1.1"},
		{"h2c", "h2c://" + plain, "", "HTTP/2.0"},
		{"HTTP/1.1 over TLS", "https://localhost:" + tls, verify + "\n versions 1.1", "HTTP/1.1"},
		{"HTTP/2", "https://localhost:" + tls, verify, "HTTP/2.0"},
		{"HTTP/3", "https://localhost:" + serveHTTP3(t, handler), verify + "\n versions 3", "HTTP/3.0"},
	}
	var routes strings.Builder
	for i, b := range behind {
		transport := ""
		if b.transport != "" {
			transport = "transport http {\n" + b.transport + "\n}"
		}
		fmt.Fprintf(&routes, "handle_path /%d/* {\nproxy %s {\n%s\n}\n}\n", i, b.upstream, transport)
	}
	_, ways := bothWays(t, p, routes.String())
	for _, w := range ways {
		for front, c := range w.clients(t) {
			for i, b := range behind {
				t.Run(w.name+", "+front+" to "+b.name, func(t *testing.T) {
					text := strings.Repeat(front+b.name, 5000)
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("%s/%d/x?a=%%20b&c;d", c.base, i), io.MultiReader(strings.NewReader(text)))
					if err != nil {
						t.Fatal(err)
					}
					req.Trailer = http.Header{"X-Sum": {"sum-17"}}
					resp, body := c.do(t, req)
					if resp.StatusCode != http.StatusAccepted || body != text {
						t.Fatalf("answered %d and %d bytes of %d: %.100s", resp.StatusCode, len(body), len(text), body)
					}
					if resp.ProtoMajor != c.major || resp.Header.Get("X-Protocol") != b.protocol {
						t.Errorf("in front %s, behind %s", resp.Proto, resp.Header.Get("X-Protocol"))
					}
					if got := resp.Header.Get("X-Query"); got != "a=%20b&c;d" {
						t.Errorf("the query arrived as %s", got)
					}
					if got, want := resp.Trailer.Get("Announced"), fmt.Sprintf("%d bytes and sum-17", len(text)); got != want {
						t.Errorf("the announced trailer is %q, want %q", got, want)
					}
					if got := resp.Trailer.Get("Unannounced"); got != "it came late" {
						t.Errorf("the unannounced trailer is %q", got)
					}
				})
			}
		}
	}
}
