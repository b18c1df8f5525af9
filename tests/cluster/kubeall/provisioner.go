package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	provisionerName         = "lockstep.dev/local"
	provisionerAnnotation   = "volume.kubernetes.io/storage-provisioner"
	selectedNodeAnnotation  = "volume.kubernetes.io/selected-node"
	provisionedByAnnotation = "pv.kubernetes.io/provisioned-by"
	resync                  = 30 * time.Second
)

// provisioner makes one folder a volume, ROOT/NODE/VOLUME, open to every user: fsGroup does not apply to
// local folders, and the pods of this project run as non-root. It is level-triggered: every event about
// a claim or a volume runs one pass over all of them.
type provisioner struct {
	root    string
	client  kubernetes.Interface
	claims  listers.PersistentVolumeClaimLister
	volumes listers.PersistentVolumeLister
}

func (p *provisioner) pass(ctx context.Context) error {
	claims, err := p.claims.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, claim := range claims {
		if wanted(claim) {
			if err := p.provide(ctx, claim); err != nil {
				return fmt.Errorf("volume for claim %s/%s: %w", claim.Namespace, claim.Name, err)
			}
		}
	}
	volumes, err := p.volumes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, volume := range volumes {
		if released(volume) {
			if err := p.remove(ctx, volume); err != nil {
				return fmt.Errorf("remove volume %s: %w", volume.Name, err)
			}
		}
	}
	return nil
}

// wanted says that the claim is ours, unbound, and that the scheduler has chosen its node.
func wanted(claim *core.PersistentVolumeClaim) bool {
	return claim.Annotations[provisionerAnnotation] == provisionerName &&
		claim.Annotations[selectedNodeAnnotation] != "" &&
		claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

func released(volume *core.PersistentVolume) bool {
	return volume.Annotations[provisionedByAnnotation] == provisionerName &&
		volume.Status.Phase == core.VolumeReleased && volume.DeletionTimestamp == nil &&
		volume.Spec.PersistentVolumeReclaimPolicy == core.PersistentVolumeReclaimDelete
}

func (p *provisioner) provide(ctx context.Context, claim *core.PersistentVolumeClaim) error {
	name := "pvc-" + string(claim.UID)
	folder := filepath.Join(p.root, claim.Annotations[selectedNodeAnnotation], name)
	if err := makeOpenFolder(folder); err != nil {
		return err
	}
	_, err := p.client.CoreV1().PersistentVolumes().Create(ctx, newVolume(name, folder, claim), meta.CreateOptions{})
	if kerrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (p *provisioner) remove(ctx context.Context, volume *core.PersistentVolume) error {
	if err := os.RemoveAll(volume.Spec.Local.Path); err != nil {
		return err
	}
	err := p.client.CoreV1().PersistentVolumes().Delete(ctx, volume.Name, meta.DeleteOptions{})
	if kerrors.IsNotFound(err) {
		return nil
	}
	return err
}

func makeOpenFolder(folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	return os.Chmod(folder, 0o777) // MkdirAll alone would apply the umask
}

func newVolume(name, folder string, claim *core.PersistentVolumeClaim) *core.PersistentVolume {
	class := ""
	if claim.Spec.StorageClassName != nil {
		class = *claim.Spec.StorageClassName
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{provisionedByAnnotation: provisionerName},
		},
		Spec: core.PersistentVolumeSpec{
			StorageClassName:              class,
			PersistentVolumeReclaimPolicy: core.PersistentVolumeReclaimDelete,
			AccessModes:                   claim.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: claim.Spec.Resources.Requests[core.ResourceStorage]},
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: folder}},
			NodeAffinity:                  onNode(claim.Annotations[selectedNodeAnnotation]),
			ClaimRef: &core.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1",
				Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
			},
		},
	}
}

func onNode(name string) *core.VolumeNodeAffinity {
	match := core.NodeSelectorRequirement{Key: core.LabelHostname, Operator: core.NodeSelectorOpIn, Values: []string{name}}
	term := core.NodeSelectorTerm{MatchExpressions: []core.NodeSelectorRequirement{match}}
	return &core.VolumeNodeAffinity{Required: &core.NodeSelector{NodeSelectorTerms: []core.NodeSelectorTerm{term}}}
}

func (p *provisioner) run(ctx context.Context) error {
	factory := informers.NewSharedInformerFactory(p.client, resync)
	claims, volumes := factory.Core().V1().PersistentVolumeClaims(), factory.Core().V1().PersistentVolumes()
	p.claims, p.volumes = claims.Lister(), volumes.Lister()
	wake := make(chan struct{}, 1) // of size one: events during a pass ask for exactly one more
	ring := func(any) {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: ring, UpdateFunc: func(_, new any) { ring(new) }, DeleteFunc: ring}
	for _, informer := range []cache.SharedIndexInformer{claims.Informer(), volumes.Informer()} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
		if err := p.pass(ctx); err != nil { // the next event or resync tries again
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

func newProvisionerCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:   "local-provisioner",
		Short: "Provide PersistentVolumes as folders of this machine",
		RunE: func(_ *cobra.Command, _ []string) error {
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return err
			}
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				return err
			}
			return (&provisioner{root: root, client: client}).run(context.Background())
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the cluster")
	command.Flags().StringVar(&root, "root", "", "the folder that holds the volumes")
	return command
}
