package injecttoken

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// addAdminFlags adds the flags that say where the admin API is.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().String("address", "", "Address of the admin API: host:port, unix//path, https://host:port")
	cmd.Flags().StringP("config", "c", "", "Configuration file that says the address")
	cmd.Flags().StringP("adapter", "a", "", "Name of the config adapter for --config")
	cmd.Flags().String("cert", "", "Client certificate for https (remote admin), a PEM file")
	cmd.Flags().String("key", "", "The private key of --cert, a PEM file")
	cmd.Flags().String("ca", "", "What to trust for https, a PEM file")
}

func sourcePath(name string) string { return adminPath + url.PathEscape(name) }

// adminRefusal is an answer of the admin API that is an error.
type adminRefusal struct {
	status int
	text   string
}

func (r *adminRefusal) Error() string { return r.text }

// adminPatience is longer than any request of the admin API takes: a token request
// may wait for another one.
const adminPatience = 2 * time.Minute

// admin speaks to the admin API of the running Caddy.
type admin struct {
	address string // for people
	base    string
	origin  string // what Caddy wants to see of who speaks to a port; else ""
	client  *http.Client
}

// newAdmin finds the admin API by the flags.
func newAdmin(fl caddycmd.Flags) (*admin, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, fl.String("config"), fl.String("adapter"))
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(address, "https://") {
		return newRemoteAdmin(fl, address)
	}
	for _, flag := range []string{"cert", "key", "ca"} {
		if fl.String(flag) != "" {
			return nil, fmt.Errorf("--%s goes with an address that begins with https://", flag)
		}
	}
	to, err := caddy.ParseNetworkAddress(strings.TrimPrefix(address, "http://"))
	if err != nil || to.PortRangeSize() > 1 {
		return nil, fmt.Errorf("--address %s is no address such as localhost:2019 or unix//run/caddy.sock", address)
	}
	if !to.IsUnixNetwork() && !to.IsFdNetwork() && to.StartPort == 0 {
		return nil, fmt.Errorf("--address %s has no port; write it as localhost:2019", address)
	}
	a := &admin{address: address, base: "http://" + to.JoinHostPort(0)}
	a.origin = a.base
	if to.IsUnixNetwork() {
		a.base, a.origin = "http://127.0.0.1", ""
		to.Host, _, _ = strings.Cut(to.Host, "|") // the socket's permissions
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, to.Network, to.JoinHostPort(0))
	}
	a.client = &http.Client{Timeout: adminPatience, Transport: &http.Transport{DialContext: dial}}
	return a, nil
}

// newRemoteAdmin is for Caddy's remote administration, which wants a certificate.
func newRemoteAdmin(fl caddycmd.Flags, address string) (*admin, error) {
	config := new(tls.Config)
	if cert, key := fl.String("cert"), fl.String("key"); cert != "" || key != "" {
		if cert == "" || key == "" {
			return nil, errors.New("--cert and --key go together: the one is the certificate, the other its private key")
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("--cert and --key: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if file := fl.String("ca"); file != "" {
		pem, err := os.ReadFile(file) //nolint:gosec // the operator says which
		if err != nil {
			return nil, fmt.Errorf("--ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--ca: %s holds no certificate", file)
		}
	}
	return &admin{
		address: address, base: strings.TrimSuffix(address, "/"),
		client: &http.Client{Timeout: adminPatience, Transport: &http.Transport{TLSClientConfig: config}},
	}, nil
}

// ask sends one request. It reads the answer into out, and returns its bytes. An
// answer that is an error is an *adminRefusal.
func (a *admin) ask(ctx context.Context, method, path string, body, out any) ([]byte, error) {
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		reader = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, reader)
	if err != nil {
		return nil, err
	}
	if a.origin != "" {
		req.Header.Set("Origin", a.origin)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, a.unreachable(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, a.unreachable(err)
	}
	raw = bytes.TrimSpace(raw)
	if resp.StatusCode >= http.StatusBadRequest {
		return raw, a.refusal(resp, raw)
	}
	named, ok := out.(interface{ subject() string })
	if json.Unmarshal(raw, out) != nil || ok && !strings.HasPrefix(path+"/", sourcePath(named.subject())+"/") {
		return raw, fmt.Errorf("what answers at %s is not Caddy's admin API", a.address)
	}
	return raw, nil
}

// What an answer is about tells it from that of another server.
func (s *sourceStatus) subject() string  { return s.Name }
func (a *authorization) subject() string { return a.Source }
func (r *revocation) subject() string    { return r.Source }

// unreachable says why nobody can be asked, without the URL that net/http adds.
func (a *admin) unreachable(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	hint := "Is it running, and is this its admin API (--address, or --config FILE that says it)?"
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		hint = "Write --ca FILE with the certificate of its authority."
	} else if _, alert := errors.AsType[*net.OpError](err); alert && strings.Contains(a.base, "https:") && strings.Contains(err.Error(), "certificate") {
		hint = "It wants a certificate that it knows: write --cert FILE and --key FILE."
	}
	return fmt.Errorf("no answer: Caddy cannot be asked at %s: %w. %s", a.address, err, hint)
}

func (a *admin) refusal(resp *http.Response, raw []byte) error {
	var said struct{ Error string }
	_ = json.Unmarshal(raw, &said)
	text := said.Error
	switch {
	case text == "" && resp.StatusCode == http.StatusBadRequest && bytes.Contains(raw, []byte("HTTPS")):
		text = "what answers at " + a.address + " speaks TLS: write https:// in front of the address"
	case text == "" && resp.StatusCode == http.StatusNotFound:
		text = "what answers at " + a.address + " is not the admin API of a Caddy with this module (HTTP 404); is --address right?"
	case text == "":
		text = "the Caddy at " + a.address + " answered with " + resp.Status
	case resp.StatusCode == http.StatusForbidden:
		text = "the Caddy at " + a.address + " does not allow this: " + text
	}
	return &adminRefusal{resp.StatusCode, text}
}

// askAdmin is ask for a command that sends one request.
func askAdmin(fl caddycmd.Flags, method, path string, out any) ([]byte, error) {
	a, err := newAdmin(fl)
	if err != nil {
		return nil, err
	}
	return a.ask(context.Background(), method, path, nil, out)
}
