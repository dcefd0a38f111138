package caddy_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// interopKeys are the keys and certificates of all rows of the interop table,
// made for this run.
type interopKeys struct {
	t      *testing.T
	signer map[string]crypto.Signer // by the algorithm
	forger map[string]crypto.Signer // of the same kinds, which nobody knows

	ca, server, client, selfSigned *certificate
	stranger                       *certificate // of the client's name, from nobody
}

// certificate is one with its key.
type certificate struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newInteropKeys(t *testing.T) *interopKeys {
	t.Helper()
	k := &interopKeys{t: t, signer: newSigners(t), forger: newSigners(t)}
	client := pkix.Name{CommonName: "crm-client", Organization: []string{"Example"}}
	k.ca = k.issue(nil, &x509.Certificate{Subject: pkix.Name{CommonName: "CA of a test"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	k.server = k.issue(k.ca, &x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	k.client = k.issue(k.ca, &x509.Certificate{Subject: client, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	k.selfSigned = k.issue(nil, &x509.Certificate{Subject: client})
	k.stranger = k.issue(nil, &x509.Certificate{Subject: client})
	return k
}

// newSigners makes a key for each algorithm.
func newSigners(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"RS256": rsaKey, "PS256": rsaKey, "ES256": newECKey(t), "EdDSA": edKey}
}

func newECKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue makes a certificate; without an issuer it is one of its own.
func (k *interopKeys) issue(issuer *certificate, template *x509.Certificate) *certificate {
	k.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		k.t.Fatal(err)
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	c := &certificate{key: newECKey(k.t)}
	if issuer == nil {
		issuer = &certificate{template, c.key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, &c.key.PublicKey, issuer.key)
	if err != nil {
		k.t.Fatal(err)
	}
	if c.Certificate, err = x509.ParseCertificate(der); err != nil {
		k.t.Fatal(err)
	}
	return c
}

func (c *certificate) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func (c *certificate) keyInPEM(t *testing.T) string { return privatePEM(t, c.key) }

func (c *certificate) tls() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: c.key}
}

// thumbprint is what a token that is bound to this certificate says (RFC 8705,
// section 3.1).
func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func privatePEM(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// publicPEM is the public half of a key.
func publicPEM(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// keyID is the name of each key at the servers.
const keyID = "key-of-2026"

// jwk is the public half of the key for an algorithm, as it is registered.
func (k *interopKeys) jwk(alg string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.signer[alg].Public(), KeyID: keyID, Algorithm: alg, Use: "sig"}
}

// certificateJWK is how a client registers a certificate of its own.
func certificateJWK(c *certificate) jose.JSONWebKey {
	return jose.JSONWebKey{Key: &c.key.PublicKey, KeyID: keyID, Certificates: []*x509.Certificate{c.Certificate}}
}

func jwks(keys ...jose.JSONWebKey) jose.JSONWebKeySet { return jose.JSONWebKeySet{Keys: keys} }

// writeJSON writes a file, and returns its path.
func writeJSON(t *testing.T, value any) (path string) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
