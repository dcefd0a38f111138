// Package browser is a person with a browser: a real Chromium without a window,
// which logs in at oidc-provider's pages, consents, and lands where it is sent.
package browser

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// chromium is one process for all tests, which end it by Close.
var chromium struct {
	mu      sync.Mutex // guards what follows
	ctx     context.Context
	profile string
}

// running starts Chromium where it does not run yet.
func running(tb testing.TB) context.Context {
	tb.Helper()
	chromium.mu.Lock()
	defer chromium.mu.Unlock()
	if chromium.ctx != nil {
		return chromium.ctx
	}
	path := harness.Chromium(tb)
	profile, err := os.MkdirTemp("", "inject-token-chromium-")
	if err != nil {
		tb.Fatal(err)
	}
	chromium.profile = profile
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.Env("HOME="+profile),
		chromedp.Flag("no-proxy-server", true), chromedp.Flag("disable-component-update", true),
		// oidc-provider's pages ask for a font of somebody else's.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		// Caddy's certificates in tests are its own.
		chromedp.IgnoreCertErrors,
	)
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox)
	}
	// Close ends it; and with this process a pipe ends, and then Chromium does.
	allocator, _ := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocator)
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatalf("Chromium did not start: %v", err)
	}
	chromium.ctx = ctx
	return ctx
}

// Close ends Chromium and removes what it has written. A package's TestMain
// calls it at the end.
func Close() {
	chromium.mu.Lock()
	defer chromium.mu.Unlock()
	if chromium.ctx != nil {
		ctx, cancel := context.WithTimeout(chromium.ctx, 20*time.Second)
		defer cancel()
		if err := chromedp.Cancel(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "Chromium did not end well:", err)
		}
	}
	if chromium.profile != "" {
		os.RemoveAll(chromium.profile)
	}
	chromium.ctx, chromium.profile = nil, ""
}
