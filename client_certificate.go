package injecttoken

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// clientCertificate proves who we are in TLS (RFC 8705). Its files are read again
// once they have changed: certificates live for days, and others rotate them. One
// that cannot be read, because it is just being written, leaves the last one in use.
type clientCertificate struct {
	transport         *reverseproxy.HTTPTransport
	certFile, keyFile string
	log               *zap.Logger

	mu       sync.Mutex // guards everything below
	loaded   *tls.Certificate
	stamp    string // of the files that were looked at last
	lookedAt time.Time
}

// lookAtCertificate is how often a request has the files looked at.
const lookAtCertificate = time.Second

// followCertificate has a provisioned transport use the client certificate that
// stands in its files now; nil where it has none, or where Caddy itself manages it.
func followCertificate(t *reverseproxy.HTTPTransport, log *zap.Logger) *clientCertificate {
	if t.TLS == nil || t.TLS.ClientCertificateFile == "" || t.Transport == nil || t.Transport.TLSClientConfig == nil {
		return nil
	}
	c := &clientCertificate{transport: t, certFile: t.TLS.ClientCertificateFile, keyFile: t.TLS.ClientCertificateKeyFile, log: log}
	config := t.Transport.TLSClientConfig
	c.stamp = c.stampOf()
	if len(config.Certificates) > 0 {
		c.loaded = &config.Certificates[0]
	}
	// This one is sent whatever authorities the server names: a self-signed one is
	// of none.
	config.Certificates, config.GetClientCertificate = nil, c.get
	return c
}

// look has idle connections closed that were made with another certificate than
// that of the files: a token that is bound to the one is worth nothing with the
// other.
func (c *clientCertificate) look() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.lookedAt) < lookAtCertificate {
		return
	}
	c.lookedAt = time.Now()
	if c.refresh() {
		c.transport.Transport.CloseIdleConnections()
	}
}

// get returns the certificate for a new connection.
func (c *clientCertificate) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	leaf := c.loaded.Leaf // which tls.LoadX509KeyPair has parsed
	switch now := time.Now(); {
	case now.After(leaf.NotAfter):
		return nil, tokensource.TransportError(fmt.Sprintf("our client certificate ended on %s (%s)", leaf.NotAfter.UTC().Format(time.DateTime), c.certFile))
	case now.Before(leaf.NotBefore):
		return nil, tokensource.TransportError(fmt.Sprintf("our client certificate begins on %s (%s)", leaf.NotBefore.UTC().Format(time.DateTime), c.certFile))
	}
	return c.loaded, nil
}

// refresh reads the files if they have changed, and says whether there is another
// certificate now. The lock is held.
func (c *clientCertificate) refresh() (changed bool) {
	stamp := c.stampOf()
	if stamp == c.stamp {
		return false
	}
	c.stamp = stamp
	certificate, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		if path, ok := errors.AsType[*os.PathError](err); ok {
			err = path.Err
		}
		c.log.Warn("the client certificate was changed and cannot be read; the last one stays in use",
			zap.String("certificate", c.certFile), zap.String("key", c.keyFile), zap.Error(err))
		return false
	}
	c.loaded = &certificate
	c.log.Info("the client certificate was changed", zap.String("certificate", c.certFile))
	return true
}

// stampOf tells one state of the files from another. A file behind a link, as in
// Kubernetes, is the one that it points to.
func (c *clientCertificate) stampOf() string {
	var stamp string
	for _, file := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			stamp += "none "
			continue
		}
		stamp += fmt.Sprint(info.Size(), info.ModTime().UnixNano(), " ")
	}
	return stamp
}
