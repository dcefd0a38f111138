package caddy_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
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
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Trailer", "Announced")
		w.Header().Set("X-Protocol", r.Proto)
		w.Header().Set("X-Query", r.URL.RawQuery)
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
		w.Header().Set("Announced", fmt.Sprintf("%q after %d bytes", r.Trailer.Get("X-Sum"), len(body)))
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
	http3Sum := "" // what of a request's trailer comes from HTTP/3 to a plain reverse_proxy: nothing in this version of Caddy
	for _, w := range slices.Backward(ways) {
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
					got, sum := resp.Trailer.Get("Announced"), "sum-17"
					if front == "HTTP/3" && w.name == "plain" {
						http3Sum, _, _ = strings.Cut(strings.TrimPrefix(got, `"`), `"`)
					}
					if front == "HTTP/3" {
						sum = http3Sum
					}
					if want := fmt.Sprintf("%q after %d bytes", sum, len(text)); got != want {
						t.Errorf("the announced trailer is %s, want %s", got, want)
					}
					if got := resp.Trailer.Get("Unannounced"); got != "it came late" {
						t.Errorf("the unannounced trailer is %q", got)
					}
				})
			}
		}
	}
}
